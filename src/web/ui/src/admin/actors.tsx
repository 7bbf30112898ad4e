// The tree of actors. Each row listens to its own actor only: what a busy one does redraws nothing else.

import { signal, useComputed } from "@preact/signals";
import { ago } from "../shared/ago";
import { duration, number, percent } from "../shared/format";
import { ChevronDown, ChevronRight, Search } from "../shared/icons";
import { admin } from "../shared/texts-admin";
import { part, told_ms, tree, viewOf, type View } from "./live";
import { Empty, Facts, JsonFacts, Meter, Waiting } from "./parts";
import type { Actor, ActorState } from "./status";
import { actors, isActor, restarts, type Row } from "./tree";

const t = admin.actors;

const LOOKS: Record<ActorState, string> = { running: "good", starting: "warn", failed: "bad", stopped: "" };

/** Parts whose own parts are not shown. */
const closed = signal<ReadonlySet<string>>(new Set());
/** Actors whose details are shown. */
const opened = signal<ReadonlySet<string>>(new Set());
const wanted = signal("");

const totals = part((status) => {
  const all = actors(status.actors);
  return { count: all.length, failed: all.filter((one) => one.state !== "running").length, restarts: all.reduce((sum, one) => sum + restarts(one), 0) };
});

function toggle(set: typeof closed, path: string): void {
  const next = new Set(set.value);
  if (!next.delete(path)) next.add(path);
  set.value = next;
}

function isShown({ path }: Row): boolean {
  if (wanted.value !== "") return path.toLowerCase().includes(wanted.value.toLowerCase());
  for (const above of closed.value) if (path.startsWith(`${above}/`)) return false;
  return true;
}

export function Actors() {
  const shown = useComputed(() => tree.value.filter(isShown));
  if (tree.value.length === 0) return <Waiting />;
  const columns = t.columns;
  return (
    <>
      <div class="section-bar">
        <Summary />
        <span class="space" />
        <label class="find">
          <Search size={16} />
          <input class="input" type="search" aria-label={t.filter} placeholder={t.filter} value={wanted.value} onInput={(event) => (wanted.value = event.currentTarget.value)} />
        </label>
      </div>
      {shown.value.length === 0 ? (
        <Empty title={t.noMatch} />
      ) : (
        <div class="table-frame">
          <table class="grid actors">
            <caption class="unseen">{t.caption}</caption>
            <thead>
              <tr>
                <th scope="col">{columns.actor}</th>
                <th scope="col">{columns.state}</th>
                <th scope="col">{columns.depth}</th>
                <th scope="col" class="number">{columns.rate}</th>
                <th scope="col">{columns.busy}</th>
                <th scope="col" class="number">{columns.oldest}</th>
                <th scope="col" class="number">{columns.restarts}</th>
                <th scope="col">{columns.error}</th>
              </tr>
            </thead>
            <tbody>
              {shown.value.map((row) => (
                <ActorRows key={row.path} row={row} />
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}

function Summary() {
  const found = totals.value;
  return found && <p class="muted">{t.summary(found.count, found.failed, found.restarts)}</p>;
}

function ActorRows({ row }: { row: Row }) {
  const view = viewOf(row.path)?.value;
  if (view === undefined) return null;
  return isActor(view.node) ? <ActorRow row={row} actor={view.node} rate={view.rate} /> : <PartRow row={row} />;
}

function Name({ row, open }: { row: Row; open?: boolean }) {
  const unfolded = !closed.value.has(row.path);
  return (
    <th scope="row" class="actor-name">
      <span style={{ paddingInlineStart: `${(row.level - 1) * 18}px` }}>
        {row.children > 0 ? (
          <button type="button" class="fold" aria-expanded={unfolded} aria-label={t.unfold(row.part)} onClick={() => toggle(closed, row.path)}>
            {unfolded ? <ChevronDown size={16} /> : <ChevronRight size={16} />}
          </button>
        ) : (
          <span class="fold" />
        )}
        {open === undefined ? (
          <span class="part">{row.part}</span>
        ) : (
          <button type="button" class="link" aria-expanded={open} aria-label={t.open(row.path)} onClick={() => toggle(opened, row.path)}>
            {row.part}
          </button>
        )}
      </span>
    </th>
  );
}

function PartRow({ row }: { row: Row }) {
  return (
    <tr class="part-row">
      <Name row={row} />
      <td colspan={7} />
    </tr>
  );
}

function ActorRow({ row, actor, rate }: { row: Row; actor: Actor; rate: View["rate"] }) {
  const columns = t.columns;
  const open = opened.value.has(row.path);
  const count = restarts(actor);
  const busy = actor.busy > 1.05 ? t.atOnce(Math.round(actor.busy * 10) / 10) : percent(Math.min(1, Math.round(actor.busy * 100) / 100));
  return (
    <>
      <tr class={open ? "open" : ""}>
        <Name row={row} open={open} />
        <td class="state-cell">
          <span class={`badge ${LOOKS[actor.state] ?? ""}`}>{t.states[actor.state] ?? actor.state}</span>
        </td>
        <td data-label={columns.depth}>
          <Meter value={actor.depth} of={actor.capacity} label={columns.depth} text={t.depth(actor.depth, actor.capacity)} />
        </td>
        <td data-label={columns.rate} class="number">{rate === null ? t.none : number(rate)}</td>
        <td data-label={columns.busy}>
          <Meter value={Math.min(actor.busy, Math.max(1, actor.capacity))} of={actor.busy > 1.05 ? actor.capacity : 1} label={columns.busy} text={busy} />
        </td>
        <td data-label={columns.oldest} class={`number ${actor.oldest_waiting_ms === undefined ? "nothing" : ""}`}>{actor.oldest_waiting_ms === undefined ? t.none : duration(actor.oldest_waiting_ms)}</td>
        <td data-label={columns.restarts} class={`number ${count > 0 ? "wrong" : "nothing"}`}>{number(count)}</td>
        <td data-label={columns.error} class={`error-cell ${actor.last_error ? "" : "nothing"}`}>
          {actor.last_error ? (
            <span class="truncate" title={actor.last_error.message}>
              <Ago at_ms={actor.last_error.at_ms} />: {actor.last_error.message}
            </span>
          ) : (
            <span class="muted">{t.none}</span>
          )}
        </td>
      </tr>
      {open && (
        <tr class="details">
          <td colspan={8}>
            <Details actor={actor} />
          </td>
        </tr>
      )}
    </>
  );
}

function Details({ actor }: { actor: Actor }) {
  return (
    <div class="actor-details">
      <Facts
        facts={[
          [t.capacity, `${number(actor.capacity)}: ${actor.capacity_reason}`],
          [t.handled, `${number(actor.handled)}, ${number(actor.failed)} ${t.failed}`],
          [t.refused, number(actor.refused)],
          [t.panics, number(actor.panics)],
          ...Object.entries(actor.restarts).map(([cause, count]) => [t.causes[cause as keyof typeof t.causes] ?? cause, number(count ?? 0)] as const),
          actor.last_recovery_ms !== undefined && [t.recovery, duration(actor.last_recovery_ms)],
        ]}
      />
      {actor.last_error && (
        <div class="note bad">
          <strong>
            {t.last}, <Ago at_ms={actor.last_error.at_ms} />
          </strong>
          <p>{actor.last_error.message}</p>
        </div>
      )}
      {actor.detail !== undefined && actor.detail !== null && (
        <>
          <h4>{t.own}</h4>
          <JsonFacts value={actor.detail} />
        </>
      )}
    </div>
  );
}

/** How long ago something was, drawn anew when that reads differently. */
export function Ago({ at_ms }: { at_ms: number }) {
  const text = useComputed(() => ago(at_ms, told_ms.value || Date.now()));
  return <>{text}</>;
}
