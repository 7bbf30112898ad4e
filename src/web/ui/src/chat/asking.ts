// Asks the service and reads the answer to its end: over a connection that is lost, after a reload, until it is stopped.
//
// What comes is put together at once and shown once a frame. While nobody looks at the tab there are no frames; a timer
// takes their place.

import { api, Problem, sendJson } from "../shared/api";
import { eventsOf, follow, type ServerEvent } from "../shared/sse";
import { failed, stopped, take, troubleOf } from "./answer";
import { chat as t } from "../shared/texts";
import type { Answer } from "./types";

/** Where there was no frame for so long, nobody looks. */
const NO_FRAME_MS = 250;

export interface AskedFor {
  question: string;
  messages: { role: string; content: string }[];
  collections: string[];
  /** Not from the cache. */
  anew: boolean;
}

/** One answer that is being read. */
export class Asking {
  #answer: Answer;
  readonly #abort = new AbortController();
  readonly #show: (answer: Answer) => void;
  #frame: number | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `show` is called with the answer as it is, once a frame at most, and at its end. */
  constructor(answer: Answer, show: (answer: Answer) => void) {
    this.#answer = answer;
    this.#show = show;
  }

  /** Asks, and reads what comes. Returns at the end, whatever that is. */
  async ask(asked: AskedFor): Promise<void> {
    const { question, messages, collections, anew } = asked;
    const filter = collections.length > 0 ? { collection: collections } : undefined;
    await this.#until(async () => {
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (anew) headers["Cache-Control"] = "no-cache";
      const response = await sendJson("POST", "v1/answers", { question, messages, filter }, { headers, signal: this.#abort.signal });
      const id = response.headers.get("Location")?.split("/").at(-1) ?? null;
      this.#set({ ...this.#answer, id });
      this.#now();
      try {
        for await (const event of eventsOf(response)) if (this.#take(event)) return;
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
      }
      // The connection ended before the answer did: it goes on without a reader for a few seconds, so at once.
      await this.#resume();
    });
  }

  /** Reads on where the answer was left. */
  async resume(): Promise<void> {
    await this.#until(() => this.#resume());
  }

  /** Ends the answer, here and on the service. */
  stop(): void {
    this.#set(stopped(this.#answer, Date.now()));
    this.#now();
    this.#abort.abort();
    const { id } = this.#answer;
    // What it says does not matter: where it is not there any more, it has ended as well.
    if (id !== null) api(`v1/answers/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});
  }

  /** Reads no further; the answer goes on without this reader. */
  leave(): void {
    this.#abort.abort();
  }

  async #resume(): Promise<void> {
    const { id, lastEventId } = this.#answer;
    if (id === null || this.#abort.signal.aborted) throw new Problem(0, { title: t.answer.broken, detail: t.answer.brokenDetail });
    this.#set({ ...this.#answer, connected: false });
    await follow(`v1/answers/${id}/events`, {
      lastEventId,
      signal: this.#abort.signal,
      onEvent: (event) => this.#take(event),
      onConnection: (connected) => this.#set({ ...this.#answer, connected }),
    });
    if (this.#answer.state === "running" && !this.#abort.signal.aborted) throw new Problem(0, { title: t.answer.broken, detail: t.answer.brokenDetail });
  }

  async #until(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!this.#abort.signal.aborted) this.#fail(error);
    }
    this.#now();
  }

  #fail(error: unknown): void {
    if (!(error instanceof Problem)) {
      // What the service sent makes no sense to this page.
      this.#set(failed(this.#answer, { status: 0, type: "unreadable", title: t.answer.unreadable, detail: String(error), retryAfter: null }, Date.now()));
    } else if (error.type === "not-found" && this.#answer.id !== null) {
      this.#set(failed(this.#answer, { status: 404, type: "gone", title: t.answer.broken, detail: t.answer.goneDetail, retryAfter: null }, Date.now()));
    } else {
      const { status, type, title, detail, retryAfter } = error;
      this.#set(failed(this.#answer, troubleOf({ status, type, title, detail, retryAfter }), Date.now()));
    }
  }

  /** Whether that was the last event. */
  #take({ event, data, id }: ServerEvent): boolean {
    this.#set(take(this.#answer, event, data, id, Date.now()));
    return this.#answer.state !== "running";
  }

  #set(answer: Answer): void {
    this.#answer = answer;
    if (this.#frame !== null) return;
    this.#frame = requestAnimationFrame(() => this.#now());
    this.#timer = setTimeout(() => this.#now(), NO_FRAME_MS);
  }

  #now(): void {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = null;
    this.#show(this.#answer);
  }
}
