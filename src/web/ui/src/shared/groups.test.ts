import { expect, it } from "vitest";
import { groupsOf } from "./groups";

it("reads groups however they are separated", () => {
  expect(groupsOf(" hr, eng;hr\nops ")).toEqual(["hr", "eng", "ops"]);
  expect(groupsOf(" , ")).toEqual([]);
});
