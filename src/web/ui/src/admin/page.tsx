// The admin page as a whole: the strip on top, then one section, which the address names.

import { signal } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Warning } from "../shared/icons";
import { ProblemNote } from "../shared/problem";
import { askToSignIn } from "../shared/session";
import { admin as t } from "../shared/texts-admin";
import { TopBar } from "../shared/topbar";
import { Actors } from "./actors";
import { Effective } from "./effective";
import { Happened } from "./happened";
import { Keys } from "./keys";
import { Letters } from "./letters";
import { Links } from "./links";
import { refusal, watch } from "./live";
import { Models } from "./models";
import { Overview } from "./overview";
import { Empty } from "./parts";
import { ConnectionState, Strip, Version } from "./strip";
import "./admin.css";

const SECTIONS = { overview: Overview, actors: Actors, models: Models, links: Links, letters: Letters, timeline: Happened, keys: Keys, settings: Effective } satisfies Record<string, ComponentType>;
type Section = keyof typeof SECTIONS;

const named = (hash: string): Section => {
  const name = hash.replace(/^#/, "");
  return Object.hasOwn(SECTIONS, name) ? (name as Section) : "overview";
};

const section = signal<Section>(named(location.hash));
addEventListener("hashchange", () => (section.value = named(location.hash)));

export function Page() {
  useEffect(watch, []);
  return (
    <>
      <TopBar page="admin" />
      <main id="main" class="admin-page" tabindex={-1}>
        <header class="page-head">
          <h1>{t.title}</h1>
          <Version />
          {refusal.value === null && <ConnectionState />}
          <a href="docs">{t.reference}</a>
        </header>
        {refusal.value === null ? <Content /> : <Refused />}
      </main>
    </>
  );
}

function Refused() {
  const problem = refusal.value;
  if (problem === null) return null;
  if (problem.status === 401 || problem.status === 403) {
    return (
      <Empty icon={<Warning size={28} />} title={t.forbidden} hint={t.forbiddenHint}>
        <button type="button" class="button primary" onClick={() => void askToSignIn()}>
          {t.otherKey}
        </button>
      </Empty>
    );
  }
  return <ProblemNote problem={problem} onRetry={() => location.reload()} />;
}

function Content() {
  const Body = SECTIONS[section.value];
  const links = useRef<HTMLElement>(null);
  useEffect(() => {
    // On a phone the links are wider than the window.
    const [bar, link] = [links.current, links.current?.querySelector<HTMLElement>("[aria-current]")];
    if (!bar || !link) return;
    bar.scrollLeft = link.offsetLeft - (bar.clientWidth - link.offsetWidth) / 2;
    // Another section begins at its beginning, with the links in sight.
    const top = (bar.nextElementSibling?.getBoundingClientRect().top ?? 0) - bar.getBoundingClientRect().bottom;
    if (top < 0) scrollBy(0, top);
  }, [section.value]);
  return (
    <>
      <Strip />
      <nav ref={links} class="sections" aria-label={t.sectionsLabel}>
        {(Object.keys(SECTIONS) as Section[]).map((name) => (
          <a key={name} href={`#${name}`} aria-current={name === section.value ? "page" : undefined}>
            {t.sections[name]}
          </a>
        ))}
      </nav>
      <div class="section" key={section.value}>
        <Body />
      </div>
    </>
  );
}
