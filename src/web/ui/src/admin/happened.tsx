// What the supervisor did lately: outages of the last hour as lanes, and everything that happened as a list.

import { useComputed } from "@preact/signals";
import { dateTime, duration, time } from "../shared/format";
import { Clock } from "../shared/icons";
import { admin } from "../shared/texts-admin";
import { Ago } from "./actors";
import { grouped } from "./grouped";
import { part, status, told_ms } from "./live";
import { Empty, Waiting } from "./parts";
import type { Incident } from "./status";
import { entries, outages, type Outage } from "./timeline";

const t = admin.timeline;
const HOUR_MS = 3_600_000;
/** The narrowest that an outage is drawn, in hundredths of the lane. */
const NARROWEST = 0.4;

const incidents = part((one) => one.incidents ?? []);
/** Lanes move on every ten seconds, not with every status. */
const now = () => Math.floor((told_ms.value || Date.now()) / 10_000) * 10_000 + 10_000;

const LOOKS: Record<Incident["what"], string> = { started: "", recovered: "good", stopped: "", panicked: "bad", died: "bad", lost: "bad", failed: "bad" };

export function Happened() {
  const known = incidents.value;
  if (status.peek() === null || known === null) return <Waiting />;
  if (known.length === 0) return <Empty icon={<Clock size={28} />} title={t.none} hint={t.noneHint} />;
  return (
    <>
      <Lanes incidents={known} />
      <section class="happened" aria-label={t.list}>
        <h2>{t.list}</h2>
        <ol class="timeline">
          {entries(known).map((entry) => (
            <li key={`${entry.actor} ${entry.what} ${entry.at_ms}`}>
              <span class={`dot ${entry.recovered_ms === null ? "bad" : LOOKS[entry.what] === "bad" ? "warn" : LOOKS[entry.what]}`} />
              <div>
                <p>
                  <span class={`badge ${LOOKS[entry.what]}`}>{t.what[entry.what] ?? entry.what}</span> <b>{entry.actor}</b>
                  {entry.times > 1 && <span class="muted small"> · {t.times(entry.times)}</span>}
                  {entry.recovered_ms !== undefined && (
                    <span class={`small ${entry.recovered_ms === null ? "wrong" : "muted"}`}>
                      {" · "}
                      {entry.recovered_ms === null ? t.down : t.back(duration(entry.recovered_ms - entry.last_ms))}
                    </span>
                  )}
                </p>
                {entry.message !== null && <p class="message">{entry.message}</p>}
              </div>
              <time class="muted small" dateTime={new Date(entry.last_ms).toISOString()} title={dateTime(entry.last_ms)}>
                <Ago at_ms={entry.last_ms} />
              </time>
            </li>
          ))}
        </ol>
      </section>
    </>
  );
}

function Lanes({ incidents }: { incidents: readonly Incident[] }) {
  const moment = useComputed(now).value;
  const lately = outages(incidents).filter(({ to_ms }) => to_ms === null || to_ms > moment - HOUR_MS);
  const lanes = grouped(lately, ({ actor }) => actor);
  return (
    <section class="card lanes" aria-label={t.lanes}>
      <h2>{t.lanes}</h2>
      {lanes.size === 0 ? (
        <p class="muted">{t.lanesNone}</p>
      ) : (
        <>
          <ul>
            {[...lanes].map(([actor, all]) => (
              <li key={actor}>
                <span class="lane-name" title={actor}>
                  {actor}
                </span>
                <span class="lane" role="img" aria-label={t.lane(actor, all.length)}>
                  {all.map((outage) => (
                    <Bar key={outage.from_ms} outage={outage} now={moment} />
                  ))}
                </span>
              </li>
            ))}
          </ul>
          <p class="lane-axis muted small" aria-hidden="true">
            <span>{t.minutes(60)}</span>
            <span>{t.minutes(30)}</span>
            <span>{t.now}</span>
          </p>
        </>
      )}
    </section>
  );
}

function Bar({ outage, now }: { outage: Outage; now: number }) {
  const share = (at_ms: number) => Math.min(100, Math.max(0, 100 - ((now - at_ms) / HOUR_MS) * 100));
  const [from, to] = [share(outage.from_ms), share(outage.to_ms ?? now)];
  const width = Math.max(NARROWEST, to - from);
  const length = outage.to_ms === null ? t.down : t.back(duration(outage.to_ms - outage.from_ms));
  return <i class={outage.to_ms === null ? "lasting" : ""} title={t.outage(outage.actor, time(outage.from_ms), length)} style={{ left: `${Math.min(from, 100 - width)}%`, width: `${width}%` }} />;
}
