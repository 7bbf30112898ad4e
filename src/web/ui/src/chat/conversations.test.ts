import "fake-indexeddb/auto";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { asked } from "./answer";
import type { Answer, Conversation } from "./types";

const event = (at: number, name: string, data: unknown) => `id: a:${at}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
const whole: Answer = { ...asked(0), id: "old", state: "done", text: "whole", done: { finish_reason: "stop", cached: false } };

/** Answers that go on until they are told to end. */
const endless = () => new Response(new ReadableStream({ start: (controller) => controller.enqueue(new TextEncoder().encode(event(0, "token", { text: "Half" }))) }), { headers: { Location: "/v1/answers/new" } });
const refused = () => new Response(JSON.stringify({ type: "urn:answerd:problem:over-budget", title: "Too many questions", status: 429 }), { status: 429 });

let page: typeof import("./conversations");
let other: import("./store").ConversationStore;
let toasts: string[];
let calls: string[];
let answers: (() => Response)[];

/** What another tab puts. */
const conversation = (id: string, ...all: Answer[]): Conversation => ({ id, title: id, createdMs: 1, updatedMs: 1, turns: all.map((answer, at) => ({ id: `${id}${at}`, question: "q", collections: [], answer })) });
const soon = (ms = 60) => new Promise((resolve) => setTimeout(resolve, ms));
const first = () => page.turns.value[0]!.answer.value;

beforeEach(async () => {
  vi.resetModules();
  history.replaceState(null, "", "/");
  [toasts, calls, answers] = [[], [], []];
  vi.stubGlobal("fetch", async (path: string, init: RequestInit) => {
    if (path === "v1/me") return new Response(JSON.stringify({ identity: false, name: "", scopes: [], groups: [], sees_all: true }));
    calls.push(`${init.method ?? "GET"} ${path}`);
    return answers.shift()?.() ?? new Response(null, { status: 404 });
  });
  vi.doMock("../shared/toast", () => ({ toast: (text: string, action?: { run: () => void }) => (toasts.push(text), (undo = action?.run ?? undo)) }));
  const { ConversationStore } = await import("./store");
  page = await import("./conversations");
  other = new ConversationStore();
  await other.clear();
  await (await import("../shared/session")).loadMe();
  await page.start();
});
let undo: () => void = () => {};
afterEach(async () => {
  await other.close();
  vi.unstubAllGlobals();
});

describe("an open conversation", () => {
  it("waits for what another tab has only just asked", async () => {
    await other.put(conversation("a", whole));
    await page.open("a");
    await other.put(conversation("a", whole, asked(0)));
    await soon();
    expect(page.turns.value[1]?.answer.value.state).toBe("running");
    expect((await other.get("a"))?.turns[1]?.answer.state).toBe("running");
    expect(calls).toEqual([]);
    answers.push(endless);
    await other.put(conversation("a", whole, { ...asked(0), id: "new" }));
    await vi.waitFor(() => expect(calls).toEqual(["GET v1/answers/new/events"]));
  });

  it("takes the whole of an answer from the tab that has it", async () => {
    answers.push(endless);
    await other.put(conversation("a", { ...asked(0), id: "new" }));
    await page.open("a");
    await vi.waitFor(() => expect(first().text).toBe("Half"));
    await other.put(conversation("a", { ...whole, id: "new" }));
    await vi.waitFor(() => expect(first()).toMatchObject({ state: "done", text: "whole" }));
    expect(page.busy.value.size).toBe(0);
    expect(calls).toEqual(["GET v1/answers/new/events"]);
  });

  it("has its answer back where the service does not take the question again", async () => {
    await other.put(conversation("a", whole));
    await page.open("a");
    answers.push(refused);
    page.retry(page.turns.value[0]!);
    expect(first().state).toBe("running");
    await vi.waitFor(() => expect(first()).toEqual(whole));
    await soon();
    expect((await other.get("a"))?.turns[0]?.answer).toEqual(whole);
    expect(toasts).toContain("Too many questions");
  });

  it("is had back from an edit without an end to what another one is asking", async () => {
    await other.put(conversation("a", whole));
    await other.put(conversation("b"));
    await page.open("a");
    answers.push(endless, endless);
    page.editAndAsk(page.turns.value[0]!, "other");
    const back = undo;
    await soon();
    await page.open("b");
    page.ask("mine");
    await vi.waitFor(() => expect(first().text).toBe("Half"));
    back();
    await soon();
    expect(first().state).toBe("running");
    expect([...page.busy.value]).toEqual(["b"]);
    expect((await other.get("a"))?.turns.map((turn) => turn.question)).toEqual(["q"]);
  });
});
