// Server-sent events read from a fetch response: EventSource can neither POST, nor sign in by a header, nor show a
// problem document. Knows nothing of what the events mean.

import { api, Problem } from "./api";

export interface ServerEvent {
  /** The last id that the stream named; empty where it named none. */
  id: string;
  event: string;
  data: string;
}

/** Cuts a text/event-stream into events, however the reads fall (WHATWG HTML, section 9.2.6). */
export class EventStreamParser {
  #rest = "";
  #afterCr = false;
  #id = "";
  #name = "";
  #data: string[] = [];

  /** Takes more text; returns the events that are complete with it. */
  push(text: string): ServerEvent[] {
    // A CRLF may be cut in two: its CR has ended the line already.
    const more = this.#afterCr && text.startsWith("\n") ? text.slice(1) : text;
    if (text !== "") this.#afterCr = more === "" ? false : more.endsWith("\r");
    const lines = (this.#rest + more).split(/\r\n|\r|\n/);
    this.#rest = lines.pop() ?? "";
    return lines.map((line) => this.#line(line)).filter((event) => event !== null);
  }

  #line(line: string): ServerEvent | null {
    if (line === "") {
      const event = { id: this.#id, event: this.#name || "message", data: this.#data.join("\n") };
      const complete = this.#data.length > 0;
      this.#name = "";
      this.#data = [];
      return complete ? event : null;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return null; // a comment: it keeps the connection alive
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#name = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }
}

/** The events of a response, until its end. Throws a `Problem` where the connection breaks. */
export async function* eventsOf(response: Response): AsyncGenerator<ServerEvent, void> {
  if (response.body === null) return;
  const parser = new EventStreamParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      let part: ReadableStreamReadResult<string>;
      try {
        part = await reader.read();
      } catch (error) {
        throw Problem.ofLostConnection(error);
      }
      if (part.done) return;
      yield* parser.push(part.value);
    }
  } finally {
    reader.cancel().catch(() => {}); // the connection is of no use any more, whatever it says
  }
}

export interface FollowOptions {
  /** The event to go on after. */
  lastEventId?: string | undefined;
  signal: AbortSignal;
  /** Takes an event. `true` says that it was the last one wanted. */
  onEvent: (event: ServerEvent) => boolean | void;
  /** Called when the connection stands (`true`), and when it is lost and another try is due (`false`). */
  onConnection?: (connected: boolean) => void;
}

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5_000;

/** Reads a stream of events and connects again wherever it breaks, after the last event that came. Returns at its end
    (`onEvent` said so, or the service answered 204), and when `signal` aborts. Throws the `Problem` of a refusal
    that another try would not change. */
export async function follow(path: string, options: FollowOptions): Promise<void> {
  const { signal, onEvent, onConnection } = options;
  let last = options.lastEventId ?? "";
  let wait = FIRST_WAIT_MS;
  while (!signal.aborted) {
    let asked: number | null = null;
    try {
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (last !== "") headers["Last-Event-ID"] = last;
      const response = await api(path, { headers, signal, cache: "no-store" });
      if (response.status === 204) return;
      onConnection?.(true);
      for await (const event of eventsOf(response)) {
        if (signal.aborted) return;
        wait = FIRST_WAIT_MS;
        if (event.id !== "") last = event.id;
        if (onEvent(event) === true) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem) || !error.mayPass) throw error;
      asked = error.retryAfter;
    }
    onConnection?.(false);
    await pause(asked === null ? wait : asked * 1000, signal);
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  }
}

/** Waits; shorter where the signal aborts, or the browser is on line again. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      removeEventListener("online", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
    addEventListener("online", end);
  });
}
