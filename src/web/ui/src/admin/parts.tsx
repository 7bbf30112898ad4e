// Small parts that several sections have: a meter, facts, what an actor says of itself, empty and waiting states.

import type { ComponentChildren } from "preact";
import { number } from "../shared/format";
import { shared } from "../shared/texts";
import type { Json } from "./status";

interface MeterProps {
  value: number;
  of: number;
  label: string;
  text: string;
  /** Its label is shown. */
  labelled?: boolean;
}

/** How much of something is used. Above nine tenths it is drawn as a warning. */
export function Meter({ value, of, label, text, labelled = false }: MeterProps) {
  const share = of > 0 ? Math.min(1, Math.max(0, value / of)) : 0;
  return (
    <span class={`meter-with-text ${labelled ? "labelled" : ""}`}>
      {labelled && (
        <span class="meter-label" aria-hidden="true">
          {label}
        </span>
      )}
      <span class={`meter ${share > 0.9 ? "full" : ""}`} role="meter" aria-label={label} aria-valuemin={0} aria-valuemax={of} aria-valuenow={Math.min(value, of)} aria-valuetext={text}>
        <i style={{ width: `${share * 100}%` }} />
      </span>
      <span class="meter-text">{text}</span>
    </span>
  );
}

export type Fact = readonly [label: string, value: ComponentChildren] | null | false;

/** Values of up to so many characters are not broken. */
const SHORT = 20;

export function Facts({ facts }: { facts: readonly Fact[] }) {
  return (
    <dl class="facts">
      {facts.map((fact) =>
        fact ? (
          <div key={fact[0]}>
            <dt>{fact[0]}</dt>
            <dd class={typeof fact[1] === "string" && fact[1].length <= SHORT ? "short" : ""}>{fact[1]}</dd>
          </div>
        ) : null,
      )}
    </dl>
  );
}

/** Any JSON, as a list of names and values. */
export function JsonFacts({ value, without = [] }: { value: Json | undefined; without?: readonly string[] }) {
  const lines = flat(value ?? null).filter(([name]) => !without.includes(name));
  return <Facts facts={lines.map(([name, text]) => [titled(name), text] as const)} />;
}

/** A name of the service as words: `live_chunks` is "Live chunks". */
function titled(name: string): string {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function flat(value: Json, name = ""): [string, string][] {
  if (value === null) return name === "" ? [] : [[name, "–"]];
  if (typeof value === "number") return [[name, number(value)]];
  if (typeof value !== "object") return [[name, String(value)]];
  const inner = Array.isArray(value) ? value.map((item, at): [string, Json] => [String(at + 1), item]) : Object.entries(value);
  if (inner.length === 0) return [[name, "–"]];
  return inner.flatMap(([key, item]) => flat(item, name === "" ? key : `${name} ${key}`));
}

export function Empty({ icon, title, hint, children }: { icon?: ComponentChildren; title: string; hint?: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      {icon}
      <p>{title}</p>
      {hint && <p class="muted">{hint}</p>}
      {children}
    </div>
  );
}

export function Waiting() {
  return (
    <div class="waiting" role="status" aria-label={shared.loading}>
      {[70, 52, 64, 46].map((width, at) => (
        <div key={at} class="skeleton" style={{ width: `${width}%` }} />
      ))}
    </div>
  );
}
