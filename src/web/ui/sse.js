// Reading server-sent events from a fetch response: EventSource can neither POST nor show a problem document.
// Knows nothing of what the events mean.

/** Cuts a text/event-stream into events, however the reads fall (WHATWG HTML, section 9.2.6). */
export class EventStreamParser {
  #rest = "";
  #afterCr = false;
  #name = "";
  #data = [];

  /** Takes more text; returns the events that are complete with it. */
  push(text) {
    // A CRLF may be cut in two: its CR has ended the line already.
    const more = this.#afterCr && text.startsWith("\n") ? text.slice(1) : text;
    if (text !== "") this.#afterCr = more.endsWith("\r");
    const lines = (this.#rest + more).split(/\r\n|\r|\n/);
    this.#rest = lines.pop();
    return lines.map((line) => this.#line(line)).filter((event) => event !== null);
  }

  #line(line) {
    if (line === "") {
      const event = { name: this.#name || "message", data: this.#data.join("\n") };
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
    return null;
  }
}

/** The events of a response, as {name, data}, until its end. */
export async function* eventsOf(response) {
  const parser = new EventStreamParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {}); // the connection is of no use any more, whatever it says
  }
}
