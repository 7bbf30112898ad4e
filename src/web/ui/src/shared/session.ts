// Who uses the page: the key they signed in with, and what the service says they may do.
//
// The key is kept for as long as the tab is open, or in the browser where that was chosen. Other tabs follow.

import { computed, signal } from "@preact/signals";

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

/** The key in use. */
export const key = signal<string | null>(sessionStorage.getItem(STORED) ?? localStorage.getItem(STORED));
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
    abort?.addEventListener("abort", () => resolve(false), { once: true });
  });
}

export function cancelSignIn(): void {
  settle(false);
}

/** Tries a key; false where the service does not know it. Throws where the service cannot be asked. */
export async function signIn(candidate: string, keep: boolean): Promise<boolean> {
  const found = await ask(candidate);
  if (found === "unknown") return false;
  forget();
  (keep ? localStorage : sessionStorage).setItem(STORED, candidate);
  key.value = candidate;
  me.value = found;
  settle(true);
  return true;
}

export function signOut(): void {
  forget();
  key.value = null;
  me.value = null;
  void loadMe();
}

/** Asks the service who uses the page. Where that needs a key, the dialog opens. */
export async function loadMe(): Promise<void> {
  try {
    const found = await ask(key.value);
    if (found !== "unknown") me.value = found;
    else if (await askToSignIn()) return;
  } catch {
    // Not reachable, which the page's own requests and its health light say. What may be done is decided there anyway.
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

function forget(): void {
  sessionStorage.removeItem(STORED);
  localStorage.removeItem(STORED);
}

// Signing in or out for good in one tab does so in all.
addEventListener("storage", (event) => {
  if (event.key !== STORED || sessionStorage.getItem(STORED) !== null) return;
  key.value = event.newValue;
  me.value = null;
  if (event.newValue !== null) settle(true);
  void loadMe();
});
