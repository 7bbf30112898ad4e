import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

const person = (name: string) => ({ identity: true, name, scopes: ["ask"], groups: [], sees_all: false });

let page: typeof import("./session");
let reloads: number;
/** Who has which key; null: nobody can be asked. */
let people: Record<string, object> | null;

async function load(): Promise<void> {
  vi.resetModules();
  page = await import("./session");
}
const whose = () => Promise.race([page.whose, new Promise((resolve) => setTimeout(resolve, 20, "nobody knows"))]);

beforeEach(() => {
  localStorage.clear();
  sessionStorage.clear();
  reloads = 0;
  people = { a: person("Ann"), a2: person("Ann"), b: person("Bob") };
  vi.stubGlobal("location", { reload: () => reloads++ });
  vi.stubGlobal("fetch", async (_: string, init: RequestInit) => {
    if (people === null) throw new TypeError("refused");
    const who = people[new Headers(init.headers).get("Authorization")?.replace("Bearer ", "") ?? ""];
    return new Response(JSON.stringify(who ?? {}), { status: who ? 200 : 401 });
  });
});
afterEach(() => vi.unstubAllGlobals());

describe("the session", () => {
  it("goes on with what waited for the first key", async () => {
    await load();
    const loading = page.loadMe();
    const asked = page.askToSignIn();
    expect(await whose()).toBe("nobody knows");
    expect(await page.signIn("wrong", false)).toBe(false);
    expect(await page.signIn("a", false)).toBe(true);
    expect([await asked, await whose(), page.me.value?.name, reloads]).toEqual([true, "Ann", "Ann", 0]);
    await loading;
  });

  it("goes on where the same person has a new key, and begins anew with another one and without one", async () => {
    localStorage.setItem("answerd.key", "a");
    await load();
    await page.loadMe();
    await page.signIn("a2", true);
    expect([page.key.value, reloads]).toEqual(["a2", 0]);
    await page.signIn("b", true);
    expect([localStorage.getItem("answerd.key"), page.key.value, reloads]).toEqual(["b", "a2", 1]);
    page.signOut();
    expect([localStorage.length, reloads]).toEqual([0, 2]);
  });

  it("leaves the key of other tabs where one is not kept", async () => {
    localStorage.setItem("answerd.key", "a");
    await load();
    await page.loadMe();
    await page.signIn("b", false);
    expect([localStorage.getItem("answerd.key"), sessionStorage.getItem("answerd.key")]).toEqual(["a", "b"]);
  });

  it("follows another tab", async () => {
    localStorage.setItem("answerd.key", "a");
    await load();
    await page.loadMe();
    const other = (newValue: string | null) => dispatchEvent(new StorageEvent("storage", { key: "answerd.key", newValue }));
    other("a2");
    await vi.waitFor(() => expect(page.key.value).toBe("a2"));
    expect(reloads).toBe(0);
    other("b");
    await vi.waitFor(() => expect(reloads).toBeGreaterThan(0));
  });

  it("is of the same person while the service cannot be asked", async () => {
    localStorage.setItem("answerd.key", "a");
    await load();
    await page.loadMe();
    people = null;
    await load();
    expect(await whose()).toBe("Ann");
    await page.loadMe();
    expect([await whose(), reloads]).toEqual(["Ann", 0]);
    // The key is another person's by now.
    people = { a: person("Bob") };
    await load();
    await page.loadMe();
    expect([page.me.value, reloads]).toEqual([null, 1]);
    await load();
    await page.loadMe();
    expect([await whose(), page.me.value?.name, reloads]).toEqual(["Bob", "Bob", 1]);
  });

  it("is nobody's where nobody signs in, and where the service does not ask", async () => {
    await load();
    const loading = page.loadMe();
    await vi.waitFor(() => expect(page.signingIn.value).toBe(true));
    page.cancelSignIn();
    await loading;
    expect(await whose()).toBe("");
    people = { "": { ...person("anybody"), identity: false } };
    await load();
    await page.loadMe();
    expect(await whose()).toBe("");
  });
});
