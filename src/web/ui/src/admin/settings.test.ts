import { expect, it } from "vitest";
import { matching, settings } from "./settings";

const config = {
  server: { bind: "127.0.0.1:8080", workers: 2, tls: { cert: "" } },
  nats: { servers: ["nats://a", "nats://b"], token: "***", url: "nats://user:***@host" },
  models: [{ name: "one", upstreams: [] }, { name: "two", upstreams: [{ url: "http://x" }] }],
  folders: [],
};

it("every setting is there, in the table that it stands in", () => {
  expect(settings(config).map(({ section, name, value }) => [section, name, value])).toEqual([
    ["", "folders", "[]"],
    ["server", "bind", "127.0.0.1:8080"],
    ["server", "workers", "2"],
    ["server.tls", "cert", '""'],
    ["nats", "servers", "nats://a, nats://b"],
    ["nats", "token", "***"],
    ["nats", "url", "nats://user:***@host"],
    ["models.1", "name", "one"],
    ["models.1", "upstreams", "[]"],
    ["models.2", "name", "two"],
    ["models.2.upstreams.1", "url", "http://x"],
  ]);
});

it("tells which hold a secret", () => {
  expect(settings(config).filter((setting) => setting.secret).map((setting) => setting.name)).toEqual(["token", "url"]);
});

it("finds settings by words of their table, name and value", () => {
  const all = settings(config);
  expect(matching(all, "NATS token").map((setting) => setting.name)).toEqual(["token"]);
  expect(matching(all, "8080").map((setting) => setting.name)).toEqual(["bind"]);
  expect(matching(all, " ")).toHaveLength(all.length);
  expect(matching(all, "nowhere")).toEqual([]);
});
