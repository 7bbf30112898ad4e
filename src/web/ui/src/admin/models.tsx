// The models: pools with their line, workers with what they compute, the servers behind them, and what was used.

import { bytes, duration, number, percent } from "../shared/format";
import { admin } from "../shared/texts-admin";
import { part, rateOf } from "./live";
import { Empty, Facts, Meter, Waiting } from "./parts";
import { member, numberOf, textOf, type Json } from "./status";
import { byPath } from "./tree";

const t = admin.models;

interface Found {
  path: string;
  detail: Json;
  workers: { path: string; detail: Json; busy: number }[];
}

const pools = part((status): Found[] => {
  const all = [...byPath(status.actors)];
  return all
    .filter(([, node]) => member(node.detail, "admission") !== undefined)
    .map(([path, node]) => ({
      path,
      detail: node.detail ?? null,
      workers: all.filter(([worker]) => worker.startsWith(`${path}/`)).map(([worker, { detail, busy }]) => ({ path: worker, detail: detail ?? null, busy: busy ?? 0 })),
    }));
});

const embedding = part((status) => {
  const node = [...byPath(status.actors).values()].find((one) => member(one.detail, "dimensions") !== undefined);
  return node ? { detail: node.detail ?? null, busy: node.busy ?? 0 } : null;
});

const usage = part((status) => status.usage);

const count = (value: Json | undefined) => {
  const found = numberOf(value);
  return found === null ? "–" : number(found);
};
const time = (value: Json | undefined) => {
  const found = numberOf(value);
  return found === null ? "–" : duration(found);
};

export function Models() {
  if (pools.value === null) return <Waiting />;
  return (
    <>
      {pools.value.length === 0 && <Empty title={t.none} />}
      {pools.value.map((pool) => (
        <PoolCard key={pool.path} pool={pool} />
      ))}
      <Embedding />
      <Usage />
    </>
  );
}

function PoolCard({ pool }: { pool: Found }) {
  const admission = member(pool.detail, "admission");
  const [running, slots] = [numberOf(member(admission, "running")) ?? 0, numberOf(member(admission, "slots")) ?? 0];
  return (
    <section class="card model" aria-label={textOf(member(pool.detail, "model")) ?? pool.path}>
      <header>
        <h2>{textOf(member(pool.detail, "model")) ?? pool.path}</h2>
        <span class="muted small">{pool.path}</span>
      </header>
      <Meter value={running} of={slots} label={t.slots} labelled text={t.slotsText(running, slots)} />
      <Facts
        facts={[
          [t.waiting, count(member(admission, "waiting"))],
          [t.parked, count(member(admission, "parked"))],
          [t.refused, count(member(admission, "refused"))],
          [t.sequence, time(member(admission, "sequence_ms"))],
          [t.prompt, time(member(admission, "first_token_ms_per_prompt_token"))],
        ]}
      />
      <div class="workers">
        {pool.workers.map((worker) => (
          <WorkerCard key={worker.path} {...worker} />
        ))}
      </div>
    </section>
  );
}

const LOOKS: Record<string, string> = { ready: "good", failed: "bad", loading: "warn", starting: "warn" };

function WorkerCard({ path, detail, busy }: { path: string; detail: Json; busy: number }) {
  const [load, totals, state, error] = [member(detail, "load"), member(detail, "totals"), textOf(member(detail, "state")) ?? "", textOf(member(detail, "error"))];
  const n = (name: string) => numberOf(member(load, name)) ?? 0;
  const upstreams = member(member(detail, "engine"), "upstreams");
  const growth = (name: string) => {
    const rate = rateOf(`${path}#${name}`);
    return `${count(member(totals, name))}${rate === null || rate === 0 ? "" : `, ${t.rate(rate)}`}`;
  };
  return (
    <section class="worker" aria-label={path}>
      <header>
        <h3>{path.split("/").at(-1)}</h3>
        <span class={`badge ${LOOKS[state] ?? ""}`}>{t.states[state] ?? state}</span>
        <span class="space" />
        <span class="muted small">{textOf(member(detail, "model"))}</span>
      </header>
      {error !== null && <p class="note bad">{error}</p>}
      {load !== undefined && (
        <>
          <Meter value={n("running")} of={n("slots")} label={t.slots} labelled text={t.slotsText(n("running"), n("slots"))} />
          {n("context_size") > 0 && <Meter value={n("context_used")} of={n("context_size")} label={t.context} labelled text={t.contextText(n("context_used"), n("context_size"))} />}
          <Facts
            facts={[
              [t.waiting, number(n("waiting"))],
              [t.parked, number(n("parked"))],
              [t.perSequence, count(member(detail, "context"))],
              [t.decode, growth("decode_tokens")],
              [t.prefill, growth("prefill_tokens")],
              [t.cached, growth("cached_tokens")],
              [t.engineBusy, percent(Math.min(1, Math.round((rateOf(`${path}#busy_seconds`) ?? busy) * 100) / 100))],
            ]}
          />
        </>
      )}
      {Array.isArray(upstreams) && <Upstreams all={upstreams} />}
    </section>
  );
}

function Upstreams({ all }: { all: Json[] }) {
  return (
    <>
      <h4>{t.upstreams}</h4>
      <ul class="upstreams">
        {all.map((one) => {
          const healthy = member(one, "healthy") === true;
          const failures = numberOf(member(one, "failures_in_a_row")) ?? 0;
          return (
            <li key={textOf(member(one, "url")) ?? ""}>
              <span class={`dot ${healthy ? "good" : "bad"}`} />
              <span>
                {textOf(member(one, "url"))} <span class="muted small">{textOf(member(one, "model"))}</span>
                {failures > 0 && (
                  <span class="small wrong">
                    {" "}
                    {t.upstream.failures(failures)}
                    {textOf(member(one, "last_error")) !== null && `: ${textOf(member(one, "last_error"))}`}
                  </span>
                )}
              </span>
              <span class="muted small">{healthy ? t.upstream.healthy : t.upstream.ill}</span>
            </li>
          );
        })}
      </ul>
    </>
  );
}

function Embedding() {
  const found = embedding.value;
  if (!found) return null;
  const memory = numberOf(member(found.detail, "memory_bytes"));
  return (
    <section class="card model" aria-label={t.embedding}>
      <header>
        <h2>{textOf(member(found.detail, "model"))}</h2>
        <span class="muted small">{t.embedding}</span>
      </header>
      <Facts
        facts={[
          [t.dimensions, count(member(found.detail, "dimensions"))],
          [admin.actors.columns.busy, percent(Math.min(1, Math.round(found.busy * 100) / 100))],
          memory !== null && [admin.strip.memory, bytes(memory)],
        ]}
      />
    </section>
  );
}

function Usage() {
  const models = member(usage.value ?? null, "models");
  if (models === undefined || models === null || typeof models !== "object" || Array.isArray(models)) return null;
  const lost = numberOf(member(usage.value ?? null, "records_lost")) ?? 0;
  const columns = t.usageColumns;
  return (
    <section class="usage" aria-label={t.usage}>
      <h2>{t.usage}</h2>
      {lost > 0 && <p class="note bad">{t.lost(lost)}</p>}
      <div class="table-frame">
        <table class="grid">
          <thead>
            <tr>
              <th scope="col">{columns.model}</th>
              <th scope="col">{columns.requests}</th>
              <th scope="col" class="number">{columns.prompt}</th>
              <th scope="col" class="number">{columns.cached}</th>
              <th scope="col" class="number">{columns.completion}</th>
            </tr>
          </thead>
          <tbody>
            {Object.entries(models).map(([name, sums]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td data-label={columns.requests}>{requests(member(sums, "requests"))}</td>
                <td data-label={columns.prompt} class="number">{count(member(sums, "prompt_tokens"))}</td>
                <td data-label={columns.cached} class="number">{count(member(sums, "cached_prompt_tokens"))}</td>
                <td data-label={columns.completion} class="number">{count(member(sums, "completion_tokens"))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

/** Requests by how they ended. */
function requests(value: Json | undefined): string {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return count(value);
  return Object.entries(value)
    .map(([reason, found]) => `${count(found)} ${reason.replaceAll("_", " ")}`)
    .join(", ");
}
