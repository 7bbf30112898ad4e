import { afterEach, describe, expect, it, vi } from "vitest";
import { asked } from "./answer";
import { Asking } from "./asking";
import type { Answer } from "./types";

const event = (at: number, name: string, data: unknown) => `id: a:${at}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
const stream = (text: string, breaks = false) =>
  new Response(
    new ReadableStream({
      start: (controller) => controller.enqueue(new TextEncoder().encode(text)),
      pull: (controller) => (breaks ? controller.error(new TypeError("network error")) : controller.close()),
    }),
    { headers: { Location: "/v1/answers/a" } },
  );
const problem = (status: number, type: string, headers: Record<string, string> = {}) =>
  new Response(JSON.stringify({ type: `urn:answerd:problem:${type}`, title: "T", detail: "D", status }), { status, headers });

/** Answers requests one after the other; returns what was asked. */
function service(...responses: (Response | Error)[]) {
  const calls: { method: string; path: string; headers: Headers; body: unknown }[] = [];
  vi.stubGlobal("fetch", async (path: string, init: RequestInit) => {
    calls.push({ method: init.method ?? "GET", path, headers: new Headers(init.headers), body: init.body ? JSON.parse(init.body as string) : null });
    const next = responses.shift();
    if (next === undefined || next instanceof Error) throw next ?? new TypeError("nothing more");
    return next;
  });
  return calls;
}

async function run(work: (asking: Asking) => Promise<void>, from: Answer = asked(0)): Promise<Answer[]> {
  const shown: Answer[] = [];
  await work(new Asking(from, (answer) => shown.push(answer)));
  return shown;
}

const question = { question: "q", messages: [], collections: [] as string[], anew: false };

afterEach(() => vi.unstubAllGlobals());

describe("asking", () => {
  it("reads an answer to its end", async () => {
    const calls = service(stream(event(0, "token", { text: "Hi" }) + event(1, "done", { finish_reason: "stop", cached: false })));
    const shown = await run((asking) => asking.ask({ ...question, collections: ["hr"], anew: true }));
    expect(shown.at(-1)).toMatchObject({ id: "a", state: "done", text: "Hi" });
    expect(calls[0]).toMatchObject({ method: "POST", path: "v1/answers", body: { question: "q", filter: { collection: ["hr"] } } });
    expect(calls[0]!.headers.get("Cache-Control")).toBe("no-cache");
  });

  it("reads on after the last event where the connection breaks", async () => {
    const calls = service(stream(event(0, "token", { text: "He" }), true), new TypeError("refused"), stream(event(1, "token", { text: "llo" }) + event(2, "done", { finish_reason: "stop" })));
    const shown = await run((asking) => asking.ask(question));
    expect(shown.at(-1)).toMatchObject({ state: "done", text: "Hello", connected: true });
    expect(calls.slice(1).map((call) => [call.path, call.headers.get("Last-Event-ID")])).toEqual([
      ["v1/answers/a/events", "a:0"],
      ["v1/answers/a/events", "a:0"],
    ]);
    expect(shown.some((answer) => !answer.connected)).toBe(true);
  });

  it("reads on after a reload", async () => {
    const calls = service(stream(event(5, "token", { text: "c" }) + event(6, "done", { finish_reason: "stop" })));
    const shown = await run((asking) => asking.resume(), { ...asked(0), id: "a", text: "ab", lastEventId: "a:4" });
    expect(shown.at(-1)).toMatchObject({ state: "done", text: "abc" });
    expect(calls[0]!.headers.get("Last-Event-ID")).toBe("a:4");
  });

  it("says where the service no longer has the answer", async () => {
    service(problem(404, "not-found"));
    const shown = await run((asking) => asking.resume(), { ...asked(0), id: "a", text: "ab" });
    expect(shown.at(-1)).toMatchObject({ state: "failed", text: "ab", trouble: { type: "gone" } });
  });

  it("cannot read on where the service never took the question", async () => {
    service();
    expect((await run((asking) => asking.resume())).at(-1)).toMatchObject({ state: "failed" });
  });

  it("shows a refusal with its wait", async () => {
    service(problem(429, "over-budget", { "Retry-After": "30" }));
    expect((await run((asking) => asking.ask(question))).at(-1)).toMatchObject({ state: "failed", trouble: { type: "over-budget", status: 429, retryAfter: 30 } });
  });

  it("stops here and on the service", async () => {
    const calls = service(new Response(new ReadableStream({ start: (controller) => controller.enqueue(new TextEncoder().encode(event(0, "token", { text: "Half" }))) }), { headers: { Location: "/v1/answers/a" } }), new Response(null, { status: 204 }));
    const shown: Answer[] = [];
    const asking = new Asking(asked(0), (answer) => shown.push(answer));
    void asking.ask(question);
    await vi.waitFor(() => expect(shown.at(-1)?.text).toBe("Half"));
    asking.stop();
    expect(shown.at(-1)).toMatchObject({ state: "done", text: "Half", done: { finish_reason: "cancelled" } });
    expect(calls.at(-1)).toMatchObject({ method: "DELETE", path: "v1/answers/a" });
  });
});
