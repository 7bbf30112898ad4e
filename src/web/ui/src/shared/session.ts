// Who uses the page: the key they signed in with, and what the service says they may do.
//
// The key is kept for as long as the tab is open, or in the browser where that was chosen. Other tabs follow. Where somebody
// else takes over, the page is loaded anew: nothing that the one before could see stays on it.

import { computed, signal } from "@preact/signals";
import { local, session } from "./kept";

export interface Me {
  /** Whether the service asks who somebody is. Where it does not, everybody may do everything. */
  identity: boolean;
  name: string;
  scopes: string[];
  groups: string[];
  sees_all: boolean;
}

export type Scope = "ask" | "write" | "admin" | "metrics";

const STORED = "answerd.key";
/** The name that goes with the key: what is kept of somebody is found without the service as well. */
const NAME = "answerd.name";

/** The key in use. */
export const key = signal<string | null>(session.get(STORED) ?? local.get(STORED));
/** Who that is; `null` until the service said so. */
export const me = signal<Me | null>(null);
/** Whether the dialog to sign in is shown. */
export const signingIn = signal(false);
/** Whether the service has asked for a key. */
export const keyWanted = signal(false);
/** Whether somebody is signed in. */
export const signedIn = computed(() => key.value !== null);

/** Whether somebody may do something, as far as is known: the service decides, the page only hides what is of no use. */
export const may = (scope: Scope): boolean => me.value === null || !me.value.identity || me.value.scopes.includes(scope);

let told: (name: string) => void;
/** Whose the page is: the name of who is signed in, empty where the service does not ask or nobody is. */
export const whose = new Promise<string>((resolve) => (told = resolve));
/** What `whose` is, once it is. */
let belongsTo: string | null = null;

function belongs(name: string): void {
  belongsTo ??= name;
  told(belongsTo);
}

const nameOf = (who: Me): string => (who.identity ? who.name : "");

/** Where the key in use is from. */
const source = () => (session.get(STORED) === null ? local : session);

// As it was the last time: what this browser keeps need not wait for the service.
const before = source().get(NAME);
if (before !== null) belongs(before);

let waiting: ((signedIn: boolean) => void)[] = [];

function settle(ok: boolean): void {
  signingIn.value = false;
  const all = waiting;
  waiting = [];
  for (const resolve of all) resolve(ok);
}

/** Opens the dialog; true once somebody signed in. */
export function askToSignIn(abort: AbortSignal | null = null): Promise<boolean> {
  return new Promise((resolve) => {
    waiting.push(resolve);
    keyWanted.value = true;
    signingIn.value = true;
    const gone = () => {
      waiting = waiting.filter((one) => one !== resolve);
      resolve(false);
    };
    abort?.addEventListener("abort", gone, { once: true });
  });
}

export function cancelSignIn(): void {
  settle(false);
}

/** Tries a key; false where the service does not know it. Throws where the service cannot be asked. */
export async function signIn(candidate: string, keep: boolean): Promise<boolean> {
  const found = await ask(candidate);
  if (found === "unknown") return false;
  if (keep) {
    session.remove(STORED);
    session.remove(NAME);
  }
  // The key that other tabs have from the browser stays, where this one is for this tab.
  (keep ? local : session).set(STORED, candidate);
  (keep ? local : session).set(NAME, nameOf(found));
  takeOver(candidate, found);
  return true;
}

/** Goes on with another key. What waits for one is done with it, unless it was begun by somebody else. */
function takeOver(candidate: string, found: Me): void {
  const another = me.value === null ? belongsTo !== null && belongsTo !== nameOf(found) : JSON.stringify(me.value) !== JSON.stringify(found);
  if (another) return location.reload();
  key.value = candidate;
  me.value = found;
  belongs(nameOf(found));
  settle(true);
}

export function signOut(): void {
  for (const kept of [session, local]) {
    kept.remove(STORED);
    kept.remove(NAME);
  }
  location.reload();
}

/** Asks the service who uses the page. Where that needs a key, the dialog opens, unless the page is for everybody. */
export async function loadMe(everybody = false): Promise<void> {
  try {
    const found = await ask(key.value);
    if (found !== "unknown") {
      const name = nameOf(found);
      // Taken away first: a browser without room would keep the one before, and the page be loaded again and again.
      source().remove(NAME);
      source().set(NAME, name);
      if (belongsTo !== null && belongsTo !== name) return location.reload();
      me.value = found;
      belongs(name);
    } else if (everybody) {
      keyWanted.value = true;
      belongs("");
    } else if (!(await askToSignIn())) {
      belongs("");
    }
  } catch {
    // Not reachable, which the page's own requests and its health light say. What may be done is decided there anyway.
    belongs("");
  }
}

async function ask(candidate: string | null): Promise<Me | "unknown"> {
  const headers: Record<string, string> = { Accept: "application/json" };
  if (candidate !== null) headers["Authorization"] = `Bearer ${candidate}`;
  const response = await fetch("v1/me", { headers, cache: "no-store" });
  if (response.status === 401) return "unknown";
  if (!response.ok) throw new Error(`v1/me: ${response.status}`);
  return (await response.json()) as Me;
}

// Signing in or out for good in one tab does so in all.
addEventListener("storage", (event) => {
  if (event.key === STORED && session.get(STORED) === null && event.newValue !== key.value) void follow(event.newValue);
});

async function follow(candidate: string | null): Promise<void> {
  const found = candidate === null ? "unknown" : await ask(candidate).catch(() => "unknown" as const);
  if (candidate === null || found === "unknown") location.reload();
  else takeOver(candidate, found);
}
