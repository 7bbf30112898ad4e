// Light, dark, or as the system prefers: chosen once for all pages and tabs.

import { effect, signal } from "@preact/signals";
import { local } from "./kept";

export type Theme = "system" | "light" | "dark";

const STORED = "answerd.theme";
const isTheme = (value: string | null): value is Theme => value === "light" || value === "dark" || value === "system";
const stored = (): Theme => {
  const value = local.get(STORED);
  return isTheme(value) ? value : "system";
};

export const theme = signal<Theme>(stored());

effect(() => {
  if (theme.value === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme.value;
});

export function choose(next: Theme): void {
  theme.value = next;
  local.set(STORED, next);
}

addEventListener("storage", (event) => {
  if (event.key === STORED) theme.value = stored();
});

/** The value of a colour token now, for what is drawn on a canvas: `colour("--accent")`. */
export function colour(token: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${token})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

/** Calls back whenever the colours change, by the switch or by the system. Returns the way to end it. */
export function onColours(changed: () => void): () => void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", changed);
  let first = true;
  const end = effect(() => {
    void theme.value;
    if (!first) changed();
    first = false;
  });
  return () => {
    system.removeEventListener("change", changed);
    end();
  };
}
