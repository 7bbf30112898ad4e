// The configuration in effect as a list of settings, to be searched and read.

import type { Json } from "./status";

export interface Setting {
  /** The table it stands in, such as `nats` or `models.0`. */
  section: string;
  name: string;
  value: string;
  /** Its value is not shown. */
  secret: boolean;
}

/** How the service writes a value that it does not show. */
const HIDDEN = "***";

export function settings(config: Json): Setting[] {
  const found: Setting[] = [];
  const walk = (value: Json, section: string, name: string) => {
    if (value !== null && typeof value === "object" && !(Array.isArray(value) && value.every(isPlain))) {
      const inner = Array.isArray(value) ? value.map((item, n): [string, Json] => [String(n + 1), item]) : Object.entries(value);
      const here = name === "" ? section : section === "" ? name : `${section}.${name}`;
      if (inner.length === 0) found.push({ section, name, value: Array.isArray(value) ? "[]" : "{}", secret: false });
      // Settings of a table stand before the tables inside it.
      for (const [key, item] of inner) if (isLeaf(item)) walk(item, here, key);
      for (const [key, item] of inner) if (!isLeaf(item)) walk(item, here, key);
      return;
    }
    found.push({ section, name, value: shown(value), secret: holdsSecret(value) });
  };
  walk(config, "", "");
  return found;
}

/** Those in which every word of the search stands somewhere. */
export function matching(all: readonly Setting[], search: string): Setting[] {
  const words = search.toLowerCase().split(/\s+/).filter((word) => word !== "");
  return all.filter(({ section, name, value }) => {
    const text = `${section}.${name} ${value}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

function isPlain(value: Json): boolean {
  return value === null || typeof value !== "object";
}

function isLeaf(value: Json): boolean {
  return isPlain(value) || (Array.isArray(value) && value.every(isPlain));
}

function holdsSecret(value: Json): boolean {
  return Array.isArray(value) ? value.some(holdsSecret) : typeof value === "string" && value.includes(HIDDEN);
}

function shown(value: Json): string {
  if (Array.isArray(value)) return value.length === 0 ? "[]" : value.map(shown).join(", ");
  if (value === "") return '""';
  return typeof value === "string" ? value : JSON.stringify(value);
}
