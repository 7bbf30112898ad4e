import "fake-indexeddb/auto";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { asked } from "./answer";
import { ConversationStore } from "./store";
import type { Turn } from "./types";

const turn = (id: string, question: string, text = ""): Turn => ({ id, question, collections: [], answer: { ...asked(0), state: "done", text } });
const head = (id: string, title = id, updatedMs = 1) => ({ id, title, createdMs: 1, updatedMs });

let count = 0;
let name: string;
const open: ConversationStore[] = [];
const store = () => {
  const one = new ConversationStore(name);
  open.push(one);
  return one;
};

beforeEach(() => {
  name = `test-${++count}`;
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.close()));
  vi.unstubAllGlobals();
});

for (const kind of ["IndexedDB", "memory"]) {
  describe(`conversations in ${kind}`, () => {
    beforeEach(() => {
      if (kind === "memory") vi.stubGlobal("indexedDB", { open: () => { throw new Error("not allowed here"); } });
    });

    it("are listed, the latest first", async () => {
      const one = store();
      await one.putTurn(head("a", "A", 1), turn("1", "first"));
      await one.putTurn(head("b", "B", 2), turn("2", "second"));
      expect((await one.list()).map((entry) => entry.title)).toEqual(["B", "A"]);
      await one.putTurn(head("a", "ignored", 3), turn("3", "third"));
      expect((await one.list()).map((entry) => entry.title)).toEqual(["A", "B"]);
      expect((await one.get("a"))?.turns.map((one) => one.question)).toEqual(["first", "third"]);
    });

    it("keep the turns that another tab wrote", async () => {
      const one = store();
      await one.putTurn(head("a"), turn("1", "first"));
      await one.putTurn(head("a"), turn("2", "of another tab"));
      await one.updateTurn("a", turn("1", "first", "answered"));
      expect((await one.get("a"))?.turns.map((one) => `${one.question}: ${one.answer.text}`)).toEqual(["first: answered", "of another tab: "]);
    });

    it("keep a whole answer that another tab could not read", async () => {
      const one = store();
      const whole = turn("1", "q", "whole");
      await one.putTurn(head("a"), { ...whole, answer: { ...whole.answer, id: "x" } });
      await one.updateTurn("a", { ...whole, answer: { ...whole.answer, id: "x", text: "wh", state: "failed" } });
      expect((await one.get("a"))?.turns[0]?.answer).toMatchObject({ state: "done", text: "whole" });
      await one.updateTurn("a", { ...whole, answer: { ...whole.answer, id: "y", text: "", state: "failed" } });
      expect((await one.get("a"))?.turns[0]?.answer).toMatchObject({ state: "failed", id: "y" });
    });

    it("keep the answer of the tab that has more of it", async () => {
      const one = store();
      const whole = turn("1", "q", "whole");
      const with_ = (answer: Partial<Turn["answer"]>): Turn => ({ ...whole, answer: { ...whole.answer, ...answer } });
      // Asked in one tab, which another one cannot read yet.
      await one.putTurn(head("a"), with_({ id: "x", state: "running", text: "wh" }));
      await one.updateTurn("a", with_({ id: null, state: "failed", text: "" }));
      expect((await one.get("a"))?.turns[0]?.answer).toMatchObject({ state: "running", id: "x" });
      // At its end here, while the other one is still in the middle.
      await one.updateTurn("a", with_({ id: "x" }));
      await one.updateTurn("a", with_({ id: "x", state: "running", text: "wh" }));
      expect((await one.get("a"))?.turns[0]?.answer).toMatchObject({ state: "done", text: "whole" });
      // Asked anew, it is another answer.
      await one.updateTurn("a", with_({ id: "y", state: "running", text: "" }));
      expect((await one.get("a"))?.turns[0]?.answer).toMatchObject({ state: "running", id: "y" });
    });

    it("do not come back through a turn that was taken away", async () => {
      const one = store();
      await one.putTurn(head("a"), turn("1", "first"));
      await one.putTurns("a", []);
      await one.updateTurn("a", turn("1", "first", "late"));
      expect((await one.get("a"))?.turns).toEqual([]);
      await one.delete("a");
      await one.updateTurn("a", turn("1", "first", "later"));
      await one.rename("a", "x");
      expect(await one.get("a")).toBeNull();
      expect(await one.list()).toEqual([]);
    });

    it("are found by all words of a search, in titles, questions and answers", async () => {
      const one = store();
      await one.putTurn(head("a", "Leave"), turn("1", "How many days?", "Twenty-eight"));
      await one.putTurn(head("b", "Travel"), turn("2", "How many nights?", "Two"));
      expect([...(await one.search("how MANY"))].sort()).toEqual(["a", "b"]);
      expect([...(await one.search("leave twenty"))]).toEqual(["a"]);
      expect([...(await one.search("leave two"))]).toEqual([]);
    });

    it("are renamed, put back and cleared", async () => {
      const one = store();
      await one.putTurn(head("a"), turn("1", "q"));
      await one.rename("a", "Better");
      const kept = (await one.get("a"))!;
      expect(kept.title).toBe("Better");
      await one.delete("a");
      await one.put(kept);
      expect(await one.get("a")).toEqual(kept);
      await one.clear();
      expect(await one.all()).toEqual([]);
    });
  });
}

describe("several tabs", () => {
  it("tell each other of changes", async () => {
    const [here, there] = [store(), store()];
    const heard = new Promise((resolve) => (there.onChange = resolve));
    await here.putTurn(head("a"), turn("1", "q"));
    expect(await heard).toEqual({ kind: "saved", id: "a" });
    expect((await there.get("a"))?.turns).toHaveLength(1);
  });

  it("a browser without room keeps what it has, and the page the rest", async () => {
    const one = store();
    await one.putTurn(head("a", "A", 1), turn("1", "first"));
    let told = 0;
    one.onVolatile = () => told++;
    const put = vi.spyOn(IDBObjectStore.prototype, "put").mockImplementation(() => {
      throw new DOMException("full", "QuotaExceededError");
    });
    await one.putTurn(head("a", "A", 3), turn("2", "second"));
    await one.putTurn(head("b", "B", 2), turn("3", "third"));
    expect((await one.list()).map((entry) => entry.id)).toEqual(["a", "b"]);
    expect((await one.get("a"))?.turns.map((each) => each.question)).toEqual(["first", "second"]);
    expect([...(await one.search("third"))]).toEqual(["b"]);
    expect(told).toBe(1);
    // There is room again: nothing was lost.
    put.mockRestore();
    await one.updateTurn("a", turn("1", "first", "answered"));
    expect((await store().get("a"))?.turns.map((each) => each.question)).toEqual(["first", "second"]);
    await one.delete("b");
    expect((await one.all()).map((each) => each.id)).toEqual(["a"]);
  });

  it("a browser that keeps nothing says so", async () => {
    vi.stubGlobal("indexedDB", { open: () => { throw new Error("not allowed here"); } });
    const one = store();
    const told = new Promise<void>((resolve) => (one.onVolatile = resolve));
    await told;
    await one.putTurn(head("a"), turn("1", "q"));
    expect(await one.list()).toHaveLength(1);
  });
});
