// The tree of actors as rows of a table, in the order of the tree.

import type { Actor, ActorState, TreeNode } from "./status";

export interface Row {
  /** The place in the tree, parts separated by slashes. */
  path: string;
  part: string;
  level: number;
  children: number;
}

/** Rows of the tree, without those below a path in `closed`. */
export function rows(tree: readonly TreeNode[], closed: ReadonlySet<string> = new Set()): Row[] {
  const found: Row[] = [];
  const walk = (nodes: readonly TreeNode[], above: string, level: number) => {
    for (const node of nodes) {
      const path = above === "" ? node.part : `${above}/${node.part}`;
      const children = node.children ?? [];
      found.push({ path, part: node.part, level, children: children.length });
      if (!closed.has(path)) walk(children, path, level + 1);
    }
  };
  walk(tree, "", 1);
  return found;
}

/** Whether two lists of rows look the same, so that a table need not be built anew. */
export function sameRows(a: readonly Row[], b: readonly Row[]): boolean {
  return (
    a.length === b.length &&
    a.every((row, at) => {
      const other = b[at];
      return other !== undefined && row.path === other.path && row.children === other.children;
    })
  );
}

/** Every node by its path; an actor has a state, what only holds others has none. */
export function byPath(tree: readonly TreeNode[]): Map<string, TreeNode> {
  const found = new Map<string, TreeNode>();
  const walk = (nodes: readonly TreeNode[], above: string) => {
    for (const node of nodes) {
      const path = above === "" ? node.part : `${above}/${node.part}`;
      found.set(path, node);
      walk(node.children ?? [], path);
    }
  };
  walk(tree, "");
  return found;
}

export function isActor(node: TreeNode): node is TreeNode & Actor {
  return typeof node.state === "string" && typeof node.capacity === "number";
}

/** All actors, those inside others included. */
export function actors(tree: readonly TreeNode[]): Actor[] {
  return [...byPath(tree).values()].filter(isActor);
}

const WORSE: readonly ActorState[] = ["failed", "starting", "stopped", "running"];

/** The state that says most about several. */
export function worst(states: readonly ActorState[]): ActorState | null {
  return WORSE.find((state) => states.includes(state)) ?? null;
}

export function restarts(actor: Pick<Actor, "restarts">): number {
  return Object.values(actor.restarts).reduce((sum, count) => sum + (count ?? 0), 0);
}
