// The documents page as a whole. What is looked for stands in the address, so that it can be shared and reloaded.

import { effect, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { PassageHost } from "../shared/passage";
import { may } from "../shared/session";
import { documents as t } from "../shared/texts-documents";
import { TopBar } from "../shared/topbar";
import { collections, filter, reload } from "./list";
import { query, Results, search, SearchBox } from "./searching";
import { Filters, Table } from "./table";
import { DropVeil, takeDrop, Uploading } from "./uploading";
import { settled } from "./uploads";
import "./documents.css";

/** Documents come one after another: the list is asked for once for many. */
const RELOAD_MS = 700;

export function Page() {
  const typed = useSignal(query.value);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let known = settled.value;
    const onSettled = effect(() => {
      if (settled.value === known) return;
      known = settled.value;
      clearTimeout(timer);
      timer = setTimeout(() => void reload(), RELOAD_MS);
    });
    const onAddress = effect(() => {
      const parts = Object.entries({ q: query.value, ...filter.value }).filter(([, value]) => value !== "");
      const text = new URLSearchParams(parts).toString();
      history.replaceState(null, "", text === "" ? location.pathname : `?${text}`);
    });
    return () => {
      onSettled();
      onAddress();
      clearTimeout(timer);
    };
  }, []);
  useEffect(() => {
    // Another collection is another search.
    let first = true;
    return filter.subscribe(() => {
      if (!first && query.value !== "") void search(query.value);
      first = false;
    });
  }, []);
  return (
    <>
      <TopBar page="documents" />
      <main id="main" class="documents-page" tabindex={-1}>
        <header class="page-head">
          <h1>{t.title}</h1>
          <Total />
        </header>
        {may("write") ? <Uploading /> : <p class="note">{t.readOnly}</p>}
        <section class="listing" aria-label={t.list.heading}>
          <div class="toolbar">
            <SearchBox typed={typed} />
            <Filters />
          </div>
          <Body
            onClear={() => {
              typed.value = "";
              void search("");
            }}
          />
        </section>
      </main>
      {may("write") && <DropVeil onDrop={(items) => void takeDrop(items)} />}
      <PassageHost />
    </>
  );
}

function Body({ onClear }: { onClear: () => void }) {
  return query.value !== "" ? <Results onClear={onClear} /> : <Table />;
}

function Total() {
  const all = collections.value;
  if (all.length === 0) return null;
  return <p class="muted">{t.total(all.reduce((sum, { documents }) => sum + documents, 0), all.length)}</p>;
}
