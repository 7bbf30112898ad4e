// How an answer becomes what it is, event by event. Pure: what is there and an event give what is there then.

import type { Answer, Done, Source, Stage, Trouble, Usage } from "./types";

/** An answer that was just asked for. */
export function asked(nowMs: number): Answer {
  return {
    id: null,
    lastEventId: "",
    state: "running",
    stage: null,
    queuePosition: null,
    connected: true,
    text: "",
    sources: [],
    usage: null,
    done: null,
    trouble: null,
    feedback: null,
    startedMs: nowMs,
    firstTokenMs: null,
    endedMs: null,
  };
}

/** The answer after an event of the service. Events of kinds that are not known here are for others. */
export function take(answer: Answer, name: string, data: string, id: string, nowMs: number): Answer {
  if (answer.state !== "running") return answer;
  const next = { ...answer, lastEventId: id || answer.lastEventId };
  switch (name) {
    case "status": {
      const { stage, queue_position } = JSON.parse(data) as { stage: Stage; queue_position: number | null };
      return { ...next, stage, queuePosition: queue_position ?? null };
    }
    case "sources":
      return { ...next, sources: (JSON.parse(data) as { sources: Source[] }).sources };
    case "token": {
      const { text } = JSON.parse(data) as { text: string };
      return { ...next, text: next.text + text, firstTokenMs: next.firstTokenMs ?? nowMs };
    }
    case "usage":
      return { ...next, usage: JSON.parse(data) as Usage };
    case "done":
      return { ...next, state: "done", done: JSON.parse(data) as Done, endedMs: nowMs };
    case "error":
      return failed(next, troubleOf(JSON.parse(data) as Record<string, unknown>), nowMs);
    default:
      return next;
  }
}

/** The answer after its reader ended it. What was said until then stays. */
export function stopped(answer: Answer, nowMs: number): Answer {
  if (answer.state !== "running") return answer;
  return { ...answer, state: "done", connected: true, done: { finish_reason: "cancelled", cached: false }, endedMs: nowMs };
}

/** The answer after something that ended it. */
export function failed(answer: Answer, trouble: Trouble, nowMs: number): Answer {
  if (answer.state !== "running") return answer;
  return { ...answer, state: "failed", connected: true, trouble, endedMs: nowMs };
}

/** A problem document, whether it came as a response or as an event. */
export function troubleOf(problem: Record<string, unknown>): Trouble {
  const text = (name: string) => (typeof problem[name] === "string" ? problem[name] : "");
  const count = (name: string) => (typeof problem[name] === "number" ? problem[name] : null);
  return {
    status: count("status") ?? 0,
    type: text("type").replace(/^urn:answerd:problem:/, ""),
    title: text("title"),
    detail: text("detail"),
    retryAfter: count("retryAfter") ?? count("retry_after_s"),
  };
}

/** What the service reads as the conversation so far: the last so many messages. */
const HISTORY = 6;

/** Earlier turns as the service takes them. Citations are left out: their numbers mean other passages in the next
    prompt. So are turns without an answer. */
export function messagesOf(turns: { question: string; answer: Answer }[]): { role: "user" | "assistant"; content: string }[] {
  const messages = turns.flatMap(({ question, answer }) => {
    const said = answer.text.replace(/\s*\[\d{1,3}(?:\s*,\s*\d{1,3})*\]/g, "").trim();
    if (answer.state !== "done" || said === "") return [];
    return [{ role: "user" as const, content: question }, { role: "assistant" as const, content: said }];
  });
  return messages.slice(-HISTORY);
}
