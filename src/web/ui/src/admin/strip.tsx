// The strip on top of every section: whether the service is well, and its main numbers.

import type { ComponentChildren } from "preact";
import { computed, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { bytes, compact, duration, number } from "../shared/format";
import { Offline } from "../shared/icons";
import { admin } from "../shared/texts-admin";
import { connection, part, status, told_ms } from "./live";

const t = admin.strip;

/** Whether there was a status at all. */
const known = computed(() => status.value !== null);
const health = part(({ ready, troubles, degraded }) => ({ ready, troubles, degraded }));
const version = part((one) => one.version);
/** To the minute once it is more than that, so that it is not drawn each second. */
const uptime = part(({ uptime_s }) => duration((uptime_s < 60 ? uptime_s : uptime_s - (uptime_s % 60)) * 1000));
const catalog = part((one) => one.catalog);
const freshness = part((one) => one.freshness);
const memory = part(({ resident_bytes }) => (resident_bytes === null ? null : bytes(Math.round(resident_bytes / 2 ** 20) * 2 ** 20)));
const processor = part(({ cpu_share, cores }) => ({ used: cpu_share === null || cpu_share === undefined ? null : number(Math.round(cpu_share * 10) / 10), cores }));

export function Strip() {
  return (
    <section class="strip" aria-label={t.label}>
      <Health />
      <dl class="tiles">
        <Tile label={t.uptime}>
          <Uptime />
        </Tile>
        <Tile label={t.documents}>
          <Documents />
        </Tile>
        <Tile label={t.passages}>
          <Passages />
        </Tile>
        <Tile label={t.lag}>
          <Lag />
        </Tile>
        <Tile label={t.memory}>
          <Memory />
        </Tile>
        <Tile label={t.processor}>
          <Processor />
        </Tile>
      </dl>
    </section>
  );
}

function Tile({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <div class="tile">
      <dt>{label}</dt>
      <dd>{children}</dd>
    </div>
  );
}

const Wait = () => <span class="skeleton" />;

function Health() {
  const found = health.value;
  if (found === null) return null;
  const look = found.ready ? (found.degraded.length > 0 ? "warn" : "good") : "bad";
  const reasons = [...found.troubles, ...found.degraded];
  return (
    <div class={`note health-note ${look}`} role="status">
      <strong>
        <span class={`dot ${look}`} />
        {found.ready ? (found.degraded.length > 0 ? t.degraded : t.ready) : t.notReady}
      </strong>
      {reasons.length > 0 && (
        <ul>
          {reasons.map((reason) => (
            <li key={reason}>{reason}</li>
          ))}
        </ul>
      )}
    </div>
  );
}

function Uptime() {
  return uptime.value === null ? <Wait /> : <>{uptime.value}</>;
}

export function Version() {
  return version.value === null ? null : <span class="muted">{t.version(version.value)}</span>;
}

function Documents() {
  if (!known.value) return <Wait />;
  const counts = catalog.value;
  return (
    <>
      {counts ? number(counts.documents) : "–"}
      {counts && counts.pending > 0 && <small>{t.pending(counts.pending)}</small>}
      {counts && counts.failed > 0 && <small class="wrong">{t.failed(counts.failed)}</small>}
    </>
  );
}

function Passages() {
  if (!known.value) return <Wait />;
  const counts = catalog.value;
  return <>{counts ? (counts.chunks >= 100_000 ? compact(counts.chunks) : number(counts.chunks)) : "–"}</>;
}

function Lag() {
  if (!known.value) return <Wait />;
  const as_of = freshness.value;
  if (!as_of) return <>–</>;
  return (
    <>
      {as_of.lag_ms === 0 ? t.lagNone : duration(as_of.lag_ms)}
      {as_of.lag_events > 0 && <small>{t.lagEvents(as_of.lag_events)}</small>}
    </>
  );
}

function Memory() {
  return !known.value ? <Wait /> : <>{memory.value ?? "–"}</>;
}

function Processor() {
  if (!known.value) return <Wait />;
  const { used, cores } = processor.value ?? { used: null, cores: undefined };
  return (
    <>
      {used ?? "–"}
      {cores !== undefined && <small>{t.cores(cores)}</small>}
    </>
  );
}

/** Whether what is shown is of now; said plainly where it is not. */
export function ConnectionState() {
  const texts = admin.connection;
  const state = connection.value;
  if (state === "lost") {
    return (
      <p class="connection lost" role="status">
        <Offline size={16} />
        {texts.lost} <Age />
      </p>
    );
  }
  return (
    <p class={`connection ${state}`}>
      <span class={`dot ${state === "live" ? "good" : ""}`} />
      {texts[state]}
    </p>
  );
}

function Age() {
  const now = useSignal(Date.now());
  useEffect(() => {
    const timer = setInterval(() => (now.value = Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  if (told_ms.value === 0) return null;
  return <span aria-live="off">{admin.connection.lostHint(Math.max(0, Math.round((now.value - told_ms.value) / 1000)))}</span>;
}
