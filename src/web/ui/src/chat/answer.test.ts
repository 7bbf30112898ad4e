import { describe, expect, it } from "vitest";
import { asked, failed, messagesOf, stopped, take, troubleOf } from "./answer";
import type { Answer } from "./types";

const after = (events: [string, unknown][], from: Answer = asked(1000)): Answer =>
  events.reduce((answer, [name, data], at) => take(answer, name, JSON.stringify(data), `a:${at}`, 1000 + 10 * (at + 1)), from);

describe("an answer", () => {
  it("goes through its stages to its end", () => {
    const queued = after([["status", { stage: "queued", queue_position: 3 }]]);
    expect(queued).toMatchObject({ state: "running", stage: "queued", queuePosition: 3, lastEventId: "a:0" });
    const done = after([
      ["sources", { sources: [{ n: 1, title: "T" }] }],
      ["token", { text: "Hel" }],
      ["token", { text: "lo" }],
      ["usage", { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7, cached_prompt_tokens: 0 }],
      ["done", { finish_reason: "stop", cached: true, lag_ms: 12 }],
    ]);
    expect(done).toMatchObject({ state: "done", text: "Hello", firstTokenMs: 1020, endedMs: 1050, lastEventId: "a:4" });
    expect(done.done).toMatchObject({ cached: true, lag_ms: 12 });
  });

  it("does not change once it has ended", () => {
    const done = stopped(after([["token", { text: "x" }]]), 2000);
    expect(done).toMatchObject({ state: "done", done: { finish_reason: "cancelled" }, text: "x" });
    expect(after([["token", { text: "more" }]], done)).toBe(done);
    expect(failed(done, troubleOf({}), 3000)).toBe(done);
    expect(stopped(done, 3000)).toBe(done);
  });

  it("keeps what was said before an error", () => {
    const answer = after([
      ["token", { text: "Half" }],
      ["error", { type: "urn:answerd:problem:over-budget", title: "No", detail: "d", status: 429, retry_after_s: 9 }],
    ]);
    expect(answer).toMatchObject({ state: "failed", text: "Half", trouble: { type: "over-budget", status: 429, retryAfter: 9 } });
  });

  it("passes over events it does not know, but counts them", () => {
    expect(after([["weather", { rain: true }]])).toEqual({ ...asked(1000), lastEventId: "a:0" });
  });

  it("keeps the last id where an event has none", () => {
    expect(take({ ...asked(0), lastEventId: "a:7" }, "token", '{"text":"x"}', "", 1).lastEventId).toBe("a:7");
  });
});

describe("the conversation that is sent", () => {
  const turn = (question: string, text: string, state: Answer["state"] = "done") => ({ question, answer: { ...asked(0), text, state } });

  it("leaves out citations, and turns without an answer", () => {
    expect(messagesOf([turn("a", "Yes [1], and [2, 3]."), turn("b", "", "done"), turn("c", "half", "failed")])).toEqual([
      { role: "user", content: "a" },
      { role: "assistant", content: "Yes, and." },
    ]);
  });

  it("is the last six messages", () => {
    const messages = messagesOf([1, 2, 3, 4, 5].map((n) => turn(`q${n}`, `a${n}`)));
    expect(messages.map((message) => message.content)).toEqual(["q3", "a3", "q4", "a4", "q5", "a5"]);
  });
});
