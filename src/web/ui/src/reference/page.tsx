// The API reference as a whole: a list of groups beside it, a field to search, and every operation folded to a line. The
// part of the address after `#` names the operation that is open.

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Search } from "../shared/icons";
import { ProblemNote } from "../shared/problem";
import { reference as t } from "../shared/texts-reference";
import { TopBar } from "../shared/topbar";
import { api, load, problem } from "./load";
import { Markdown } from "./markdown";
import { groupsOf, matches, type OpenApi } from "./openapi";
import { OperationCard } from "./operation";
import "./reference.css";

const named = () => decodeURIComponent(location.hash.slice(1));

export function Page() {
  useEffect(() => void load(), []);
  return (
    <>
      <TopBar page="docs" />
      <main id="main" class="reference-page" tabindex={-1}>
        {problem.value && <ProblemNote problem={problem.value} onRetry={() => void load()} />}
        {api.value === null ? problem.value === null && <div class="skeleton waiting" /> : <Reference api={api.value} />}
      </main>
    </>
  );
}

function Reference({ api }: { api: OpenApi }) {
  const words = useSignal("");
  const open = useSignal<ReadonlySet<string>>(new Set());
  const content = useRef<HTMLDivElement>(null);
  const toggle = (name: string, to: boolean) => {
    if (open.value.has(name) === to) return;
    const next = new Set(open.value);
    if (to) next.add(name);
    else next.delete(name);
    open.value = next;
  };
  useEffect(() => {
    const show = () => {
      const name = named();
      if (name === "") return;
      words.value = "";
      toggle(name, true);
      // What was folded is drawn first.
      requestAnimationFrame(() => document.getElementById(name)?.scrollIntoView());
    };
    show();
    addEventListener("hashchange", show);
    return () => removeEventListener("hashchange", show);
  }, []);
  const asked = words.value.trim();
  const all = groupsOf(api);
  const groups = all.map((group) => ({ ...group, entries: group.entries.filter((entry) => matches(entry, asked)) })).filter((group) => group.entries.length > 0);
  const count = groups.reduce((sum, group) => sum + group.entries.length, 0);
  return (
    <>
      <aside class="index">
        <form class="find" role="search" onSubmit={(event) => event.preventDefault()}>
          <Search size={16} />
          <input class="input" type="search" aria-label={t.find} placeholder={t.placeholder} value={words.value} onInput={(event) => (words.value = event.currentTarget.value)} />
        </form>
        <p class="unseen" role="status">
          {asked !== "" && t.found(count)}
        </p>
        <nav aria-label={t.groups}>
          {all.map(({ name }) => (
            <a key={name} href={`#group-${name}`}>
              {name}
            </a>
          ))}
        </nav>
      </aside>
      <div class="reference" ref={content}>
        <header class="page-head">
          <h1>{t.title}</h1>
          <p class="muted">{t.version(api.info.version)}</p>
          <a href="openapi.json">{t.raw}</a>
        </header>
        {asked === "" && api.info.description && (
          <details class="card introduction">
            <summary>
              <h2>{t.introduction}</h2>
            </summary>
            <Markdown text={api.info.description} />
          </details>
        )}
        {groups.map(({ name, description, entries }) => (
          <section key={name} class="group" id={`group-${name}`} aria-labelledby={`title-${name}`}>
            <header>
              <h2 id={`title-${name}`}>{name}</h2>
              <p class="muted">{description}</p>
            </header>
            {entries.map((entry) => {
              const id = entry.operation.operationId;
              return <OperationCard key={id} api={api} entry={entry} open={open.value.has(id)} onToggle={(to) => toggle(id, to)} />;
            })}
          </section>
        ))}
        {count === 0 && (
          <p class="note">
            {t.none}{" "}
            <button type="button" class="button quiet" onClick={() => (words.value = "")}>
              {t.clear}
            </button>
          </p>
        )}
      </div>
    </>
  );
}
