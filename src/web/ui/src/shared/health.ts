// Whether the service can do its work, asked again and again while the page is looked at.

import { signal } from "@preact/signals";

export type HealthState = "checking" | "ready" | "degraded" | "unavailable" | "unreachable";

export interface Health {
  state: HealthState;
  /** What is missing. */
  reasons: string[];
}

export const health = signal<Health>({ state: "checking", reasons: [] });

const EVERY_MS = 15_000;
/** Sooner, while something is wrong. */
const TROUBLE_MS = 4_000;

const strings = (value: unknown): string[] => (Array.isArray(value) ? value.filter((one) => typeof one === "string") : []);

export async function readHealth(): Promise<Health> {
  try {
    const response = await fetch("readyz", { headers: { Accept: "application/json" }, cache: "no-store" });
    const body = (await response.json()) as Record<string, unknown>;
    if (response.ok) {
      const reasons = strings(body["degraded"]);
      return { state: reasons.length > 0 ? "degraded" : "ready", reasons };
    }
    const reasons = strings(body["reasons"]);
    return { state: "unavailable", reasons: reasons.length > 0 ? reasons : [String(body["detail"] ?? response.status)] };
  } catch {
    return { state: "unreachable", reasons: [] };
  }
}

/** Keeps `health` up to date from now on. */
export function watchHealth(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const look = async () => {
    clearTimeout(timer);
    if (!document.hidden) {
      const found = await readHealth();
      // The same again would redraw for nothing.
      if (JSON.stringify(found) !== JSON.stringify(health.value)) health.value = found;
    }
    timer = setTimeout(look, health.value.state === "ready" ? EVERY_MS : TROUBLE_MS);
  };
  document.addEventListener("visibilitychange", () => void (document.hidden || look()));
  addEventListener("online", look);
  addEventListener("offline", look);
  void look();
}
