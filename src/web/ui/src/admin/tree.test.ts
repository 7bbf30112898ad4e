import { describe, expect, it } from "vitest";
import type { Actor, TreeNode } from "./status";
import { actors, byPath, restarts, rows, sameRows, worst } from "./tree";

function actor(part: string, more: Partial<Actor> = {}): TreeNode {
  return {
    part, name: part, state: "running", depth: 0, capacity: 1, capacity_reason: "", handled: 0, failed: 0, refused: 0,
    panics: 0, restarts: {}, busy: 0, ...more,
  };
}

const tree: TreeNode[] = [
  actor("embedder"),
  { part: "read", children: [{ ...actor("pool"), children: [actor("worker-1"), actor("worker-2")] }, actor("cache")] },
];

describe("the tree as rows", () => {
  it("keeps the order and the depth", () => {
    expect(rows(tree).map(({ path, level, children }) => [path, level, children])).toEqual([
      ["embedder", 1, 0],
      ["read", 1, 2],
      ["read/pool", 2, 2],
      ["read/pool/worker-1", 3, 0],
      ["read/pool/worker-2", 3, 0],
      ["read/cache", 2, 0],
    ]);
  });

  it("leaves out what is below a closed row, and nothing else", () => {
    expect(rows(tree, new Set(["read/pool"])).map((row) => row.path)).toEqual(["embedder", "read", "read/pool", "read/cache"]);
    expect(rows(tree, new Set(["read"])).map((row) => row.path)).toEqual(["embedder", "read"]);
  });

  it("is the same as long as no row comes or goes", () => {
    expect(sameRows(rows(tree), rows(structuredClone(tree)))).toBe(true);
    expect(sameRows(rows(tree), rows(tree.slice(1)))).toBe(false);
    expect(sameRows(rows(tree), rows([...tree, actor("more")]))).toBe(false);
  });
});

it("a part that only holds others is no actor", () => {
  expect(actors(tree).map((found) => found.name)).toEqual(["embedder", "pool", "worker-1", "worker-2", "cache"]);
  expect(byPath(tree).get("read/pool/worker-2")?.part).toBe("worker-2");
});

it("a failed actor says more than those that run", () => {
  expect(worst(["running", "failed", "starting"])).toBe("failed");
  expect(worst(["running", "starting"])).toBe("starting");
  expect(worst([])).toBeNull();
});

it("counts restarts of every cause", () => {
  expect(restarts({ restarts: { panic: 2, lost: 1 } })).toBe(3);
  expect(restarts({ restarts: {} })).toBe(0);
});
