// The configuration in effect, by its tables.

import { useSignal } from "@preact/signals";
import { get } from "../shared/api";
import { Key, Search } from "../shared/icons";
import { ProblemNote } from "../shared/problem";
import { admin } from "../shared/texts-admin";
import { grouped } from "./grouped";
import { useLoad } from "./load";
import { Empty, Waiting } from "./parts";
import { matching, settings } from "./settings";
import type { Json } from "./status";

const t = admin.settings;

export function Effective() {
  const { value, problem, reload } = useLoad((signal) => get<Json>("admin/config", { signal, cache: "no-store" }));
  const wanted = useSignal("");
  if (problem && value === null) return <ProblemNote problem={problem} onRetry={reload} />;
  if (value === null) return <Waiting />;
  const found = matching(settings(value), wanted.value);
  const sections = grouped(found, ({ section }) => section);
  return (
    <>
      <div class="section-bar">
        <p class="muted">{t.hint}</p>
        <span class="space" />
        <label class="find">
          <Search size={16} />
          <input class="input" type="search" aria-label={t.search} placeholder={t.search} value={wanted.value} onInput={(event) => (wanted.value = event.currentTarget.value)} />
        </label>
      </div>
      {found.length === 0 && <Empty title={t.none} />}
      <div class="settings">
        {[...sections].map(([section, all]) => (
          <section key={section} class="card" aria-label={section || t.top}>
            <h2>{section === "" ? t.top : `[${section}]`}</h2>
            <dl>
              {all.map(({ name, value, secret }) => (
                <div key={name}>
                  <dt>{name}</dt>
                  <dd>
                    {secret && value === "***" ? (
                      <span class="badge" title={t.secretHint}>
                        <Key size={12} />
                        {t.secret}
                      </span>
                    ) : (
                      value
                    )}
                  </dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
    </>
  );
}
