import { describe, expect, it } from "vitest";
import { EventStreamParser, eventsOf } from "./sse";

describe("EventStreamParser", () => {
  const stream =
    ': hello\r\n\r\nevent: token\r\nid: a:1\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata:plain\n\nevent: lost\n\ndata\rdata: x\r\revent: done\nid: a:2\ndata: end\n\ndata: unfinished';
  const expected = [
    { id: "a:1", event: "token", data: '{"a":\n1}' },
    { id: "a:1", event: "message", data: "plain" },
    { id: "a:1", event: "message", data: "\nx" },
    { id: "a:2", event: "done", data: "end" },
  ];

  it("reads events alike however the connection cuts them", () => {
    for (let size = 1; size <= stream.length; size++) {
      for (let first = 0; first < size; first++) {
        const parser = new EventStreamParser();
        const events = parser.push(stream.slice(0, first));
        for (let at = first; at < stream.length; at += size) events.push(...parser.push(stream.slice(at, at + size)));
        expect(events, `reads of ${size} after ${first}`).toEqual(expected);
      }
    }
  });

  it("ignores an id with a null character", () => {
    expect(new EventStreamParser().push("id: a\0b\ndata: x\n\n")).toEqual([{ id: "", event: "message", data: "x" }]);
  });
});

describe("eventsOf", () => {
  it("gives the events of a response and ends with it", async () => {
    const events = [];
    for await (const event of eventsOf(new Response("event: a\ndata: ä\n\nevent: b\ndata: 2\n\n"))) events.push(`${event.event}=${event.data}`);
    expect(events).toEqual(["a=ä", "b=2"]);
  });

  it("throws a problem where the connection breaks", async () => {
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode("data: 1\n\n"));
      },
      pull: (controller) => controller.error(new TypeError("network error")),
    });
    const read = async () => {
      for await (const event of eventsOf(new Response(body))) void event;
    };
    await expect(read()).rejects.toMatchObject({ name: "Problem", status: 0 });
  });
});
