import { expect, it } from "vitest";
import { Problem } from "../shared/api";
import type { Document } from "./document";
import { Follower } from "./following";

const document = (id: string, status: Document["status"]) => ({ id, status }) as Document;
const soon = () => new Promise<void>((resolve) => setTimeout(resolve));

/** Follows ids to the end; says what was told of each. */
async function follow(ids: string[], find: (id: string) => Promise<Document | null>) {
  const told = new Map<string, string[]>(ids.map((id) => [id, []]));
  const follower = new Follower(find, soon);
  for (const id of ids) {
    follower.follow({
      id,
      tell: (found) => (told.get(id)?.push(found?.status ?? "gone"), found === null || found.status === "visible"),
      lost: (problem) => told.get(id)?.push(`lost ${problem.status}`),
    });
  }
  while (follower.size > 0) await soon();
  return told;
}

it("follows a document until it is visible", async () => {
  const steps: Document["status"][] = ["received", "parsed", "embedded", "visible"];
  const told = await follow(["a"], async (id) => document(id, steps.shift() ?? "failed"));
  expect(told.get("a")).toEqual(["received", "parsed", "embedded", "visible"]);
});

it("a document that is gone is settled", async () => {
  expect((await follow(["a"], async () => null)).get("a")).toEqual(["gone"]);
});

it("asks again when the connection was lost or the service is busy", async () => {
  const answers = [new Problem(0, {}), new Problem(503, {}), new Problem(429, {})];
  const told = await follow(["a"], async (id) => {
    const problem = answers.shift();
    if (problem) throw problem;
    return document(id, "visible");
  });
  expect(told.get("a")).toEqual(["visible"]);
});

it("gives up where nobody may look", async () => {
  const told = await follow(["a"], async () => {
    throw new Problem(403, {});
  });
  expect(told.get("a")).toEqual(["lost 403"]);
});

it("follows hundreds, never asking for more than a few at once", async () => {
  let open = 0;
  let most = 0;
  const ids = Array.from({ length: 300 }, (_, n) => `doc-${n}`);
  const told = await follow(ids, async (id) => {
    most = Math.max(most, ++open);
    await soon();
    open--;
    return document(id, "visible");
  });
  expect([...told.values()].every((steps) => steps.length === 1)).toBe(true);
  expect(most).toBeLessThanOrEqual(4);
});
