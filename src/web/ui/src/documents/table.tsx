// The table of documents: what there is, how far each is, who may see it, and what can be done with it.

import { signal, useComputed, useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { ago } from "../shared/ago";
import { Problem } from "../shared/api";
import { copyText } from "../shared/clipboard";
import { Confirm } from "../shared/dialog";
import { dateTime, number } from "../shared/format";
import { Copy, External, File as FileIcon, Filter as FilterIcon, More, Retry, Trash, Upload, Warning } from "../shared/icons";
import { MenuItem, Popover } from "../shared/menu";
import { openPassage, webAddress } from "../shared/passage";
import { ProblemNote } from "../shared/problem";
import { may } from "../shared/session";
import { shared } from "../shared/texts";
import { documents as t } from "../shared/texts-documents";
import { toast } from "../shared/toast";
import type { Document } from "./document";
import { choose, collections, deleting, documents, filter, loaded, loading, more, next, problem, reload, remove } from "./list";
import { reasons } from "./uploading";
import { replace } from "./uploads";

const selected = signal<ReadonlySet<string>>(new Set());
/** Ids that the dialog asks about. */
const asking = signal<readonly string[] | null>(null);

/** The time, to the half minute. */
const clock = signal(Date.now());
setInterval(() => (clock.value = Date.now()), 30_000);

/** Waits for typing to pause before the list is asked for anew. */
const TYPING_MS = 250;

export function Filters() {
  const id = useId();
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  return (
    <div class="filters" role="group" aria-label={t.list.filter}>
      <label class="unseen" for={`${id}-collection`}>
        {t.list.collection}
      </label>
      <select id={`${id}-collection`} class="input" value={filter.value.collection} onChange={(event) => choose({ collection: event.currentTarget.value })}>
        <option value="">{t.list.allCollections}</option>
        {collections.value.map(({ name, documents }) => (
          <option key={name} value={name}>
            {`${name} (${number(documents)})`}
          </option>
        ))}
        {filter.value.collection !== "" && !collections.value.some(({ name }) => name === filter.value.collection) && <option value={filter.value.collection}>{filter.value.collection}</option>}
      </select>
      <label class="unseen" for={`${id}-prefix`}>
        {t.list.prefix}
      </label>
      <input
        id={`${id}-prefix`}
        class="input"
        type="search"
        autocapitalize="off"
        spellcheck={false}
        placeholder={t.list.prefix}
        value={filter.value.prefix}
        onInput={(event) => {
          const prefix = event.currentTarget.value;
          clearTimeout(timer.current);
          timer.current = setTimeout(() => choose({ prefix }), TYPING_MS);
        }}
      />
      <button type="button" class="icon-button" aria-label={t.list.refresh} title={t.list.refresh} onClick={() => void reload()}>
        {loading.value ? <span class="spinner" /> : <Retry />}
      </button>
    </div>
  );
}

export function Table() {
  useEffect(() => {
    void reload();
  }, []);
  const forbidden = problem.value?.status === 403;
  if (problem.value && !loaded.value) {
    return forbidden ? (
      <div class="empty">
        <Warning size={28} />
        <p>{t.forbidden}</p>
        <p class="muted">{t.forbiddenHint}</p>
      </div>
    ) : (
      <ProblemNote problem={problem.value} onRetry={() => void reload()} />
    );
  }
  if (!loaded.value) return <Waiting />;
  if (documents.value.length === 0) return <Empty />;
  return (
    <>
      {problem.value && <ProblemNote problem={problem.value} onRetry={() => void reload()} />}
      <Selection />
      <div class="table-frame">
        <table class="documents">
          <caption class="unseen">{t.list.caption}</caption>
          <thead>
            <tr>
              {may("write") && (
                <th class="pick">
                  <SelectAll />
                </th>
              )}
              <th scope="col">{t.list.columns.document}</th>
              <th scope="col">{t.list.columns.collection}</th>
              <th scope="col">{t.list.columns.status}</th>
              <th scope="col">{t.list.columns.format}</th>
              <th scope="col" class="number">
                {t.list.columns.chunks}
              </th>
              <th scope="col">{t.list.columns.visibleTo}</th>
              <th scope="col">{t.list.columns.updated}</th>
              <th>
                <span class="unseen">{t.list.columns.actions}</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {documents.value.map(rowOf)}
          </tbody>
        </table>
      </div>
      {next.value !== null && (
        <button type="button" class="button more" disabled={loading.value} onClick={() => void more()}>
          {loading.value && <span class="spinner" />}
          {t.list.more}
        </button>
      )}
      <Asking />
    </>
  );
}

const rows = new WeakMap<Document, VNode>();

/** The row of a document. The same one for the same document, so that a list of hundreds is not drawn whole for one. */
function rowOf(document: Document): VNode {
  const row = rows.get(document) ?? <DocumentRow key={document.id} document={document} />;
  rows.set(document, row);
  return row;
}

function Waiting() {
  return (
    <div class="waiting" role="status" aria-label={shared.loading}>
      {[72, 54, 66, 48, 60].map((width, at) => (
        <div key={at} class="skeleton" style={{ width: `${width}%` }} />
      ))}
    </div>
  );
}

function Empty() {
  const filtered = filter.value.collection !== "" || filter.value.prefix !== "";
  return (
    <div class="empty">
      {filtered ? <FilterIcon size={28} /> : <FileIcon size={28} />}
      <p>{filtered ? t.list.noMatch : t.list.empty}</p>
      {filtered ? (
        <button type="button" class="button" onClick={() => choose({ collection: "", prefix: "" })}>
          {t.list.clearFilter}
        </button>
      ) : (
        <p class="muted">{t.list.emptyHint}</p>
      )}
    </div>
  );
}

function SelectAll() {
  const box = useRef<HTMLInputElement>(null);
  const count = selected.value.size;
  const all = count > 0 && documents.value.every(({ id }) => selected.value.has(id));
  useEffect(() => {
    if (box.current) box.current.indeterminate = count > 0 && !all;
  });
  return (
    <input
      ref={box}
      type="checkbox"
      aria-label={t.list.selectAll}
      checked={all}
      onChange={() => (selected.value = all ? new Set() : new Set(documents.value.map(({ id }) => id)))}
    />
  );
}

function Selection() {
  // What is gone, or filtered out, is not selected any more.
  const ids = documents.value.map(({ id }) => id).filter((id) => selected.value.has(id));
  if (ids.length === 0) return null;
  return (
    <div class="selection" role="status">
      <span>{t.list.selected(ids.length)}</span>
      <button type="button" class="button quiet" onClick={() => (selected.value = new Set())}>
        {t.list.unselect}
      </button>
      <span class="space" />
      <button type="button" class="button danger" onClick={() => (asking.value = ids)}>
        <Trash size={16} />
        {t.list.remove}
      </button>
    </div>
  );
}

function Asking() {
  const ids = asking.value;
  if (ids === null) return null;
  return (
    <Confirm
      title={t.list.removeTitle(ids.length)}
      text={
        <>
          <strong>{t.list.removeText(ids)}</strong>
          <br />
          {t.list.removeHint}
        </>
      }
      action={t.list.removeAction}
      onConfirm={() => void removeAll(ids)}
      onClose={() => (asking.value = null)}
    />
  );
}

async function removeAll(ids: readonly string[]): Promise<void> {
  selected.value = new Set([...selected.value].filter((id) => !ids.includes(id)));
  let gone = 0;
  const left = [...ids];
  const some = async () => {
    for (let id = left.shift(); id !== undefined; id = left.shift()) {
      try {
        await remove(id);
        gone++;
      } catch (error) {
        toast(t.list.notRemoved(id, reasons.of(error instanceof Problem ? error : Problem.ofLostConnection(error))));
      }
    }
  };
  await Promise.all([some(), some(), some(), some()]);
  if (gone > 0) toast(t.list.removed(gone));
}

const LOOKS = { visible: "good", failed: "bad", received: "accent", parsed: "accent", embedded: "accent", deleted: "" } as const;

function DocumentRow({ document }: { document: Document }) {
  const { id, status, reason } = document;
  const going = deleting.value.has(id);
  const updated = document.updated_ms ?? document.times.received_ms;
  const open = () => openPassage({ document_id: id, title: document.title || id, url: document.url ?? null });
  const columns = t.list.columns;
  return (
    <tr class={going ? "going" : ""}>
      {may("write") && (
        <td class="pick">
          <input
            type="checkbox"
            aria-label={t.list.select(id)}
            checked={selected.value.has(id)}
            onChange={(event) => {
              const all = new Set(selected.value);
              if (event.currentTarget.checked) all.add(id);
              else all.delete(id);
              selected.value = all;
            }}
          />
        </td>
      )}
      <td class="name">
        <button type="button" class="link" onClick={open}>
          {document.title || id}
        </button>
        {document.title && document.title !== id && <span class="muted small">{id}</span>}
        {status === "failed" && (
          <span class="small wrong">
            {reason ?? t.uploads.reasons.unknown}
            {document.served_revision !== undefined && ` ${t.list.stillServed}`}
          </span>
        )}
      </td>
      <td class="plain" data-label={columns.collection}>{document.collection ?? <span class="muted">{t.list.noVersion}</span>}</td>
      <td class="plain" data-label={columns.status}>
        {going ? (
          <span class="badge warn">
            <span class="spinner" />
            {t.list.deleting}
          </span>
        ) : (
          <span class={`badge ${LOOKS[status] ?? ""}`}>{t.list.statuses[status] ?? status}</span>
        )}
      </td>
      <td class="plain" data-label={columns.format}>{document.format ?? <span class="muted">{t.list.noVersion}</span>}</td>
      <td data-label={columns.chunks} class="number">
        {document.chunks === undefined ? <span class="muted">{t.list.noVersion}</span> : number(document.chunks)}
      </td>
      <td data-label={columns.visibleTo}>
        <SeenBy groups={document.visible_to} />
      </td>
      <td data-label={columns.updated} class="when plain" title={updated === undefined ? "" : dateTime(updated)}>
        {updated === undefined ? t.list.noVersion : <When at_ms={updated} />}
      </td>
      <td class="actions">
        <Actions document={document} open={open} />
      </td>
    </tr>
  );
}

function When({ at_ms }: { at_ms: number }) {
  const text = useComputed(() => ago(at_ms, Math.max(clock.value, at_ms)));
  return <>{text}</>;
}

function SeenBy({ groups }: { groups: string[] | null | undefined }) {
  if (groups === undefined || groups === null) return <span class="muted">{t.list.everybody}</span>;
  if (groups.length === 0) return <span class="badge warn">{t.list.nobody}</span>;
  return (
    <span class="groups">
      {groups.map((group) => (
        <span class="badge" key={group}>
          {group}
        </span>
      ))}
    </span>
  );
}

function Actions({ document, open }: { document: Document; open: () => void }) {
  const file = useRef<HTMLInputElement>(null);
  // Hundreds of menus of which one may be opened are built when somebody is about to.
  const wanted = useSignal(false);
  const want = () => (wanted.value = true);
  return (
    <span onPointerEnter={want} onFocusIn={want}>
      <Popover label={t.list.actions(document.id)} face={<More />}>
        {wanted.value && <Choices document={document} open={open} onReplace={() => file.current?.click()} />}
      </Popover>
      <input
        ref={file}
        type="file"
        hidden
        aria-label={t.list.replace}
        onChange={(event) => {
          const [chosen] = event.currentTarget.files ?? [];
          if (chosen) replace(document, chosen, reasons);
          event.currentTarget.value = "";
        }}
      />
    </span>
  );
}

function Choices({ document, open, onReplace }: { document: Document; open: () => void; onReplace: () => void }) {
  const original = webAddress(document.url);
  const gone = deleting.value.has(document.id);
  return (
    <>
      <MenuItem icon={<FileIcon size={16} />} onClick={open}>
        {t.list.preview}
      </MenuItem>
      {original !== null && (
        <a class="menu-item" role="menuitem" href={original} target="_blank" rel="noopener noreferrer nofollow">
          <External size={16} />
          {t.list.original(new URL(original).host)}
        </a>
      )}
      <MenuItem icon={<Copy size={16} />} onClick={() => void copy(document.id)}>
        {t.list.copyId}
      </MenuItem>
      {may("write") && !gone && (
        <>
          <MenuItem icon={<Upload size={16} />} onClick={onReplace}>
            {t.list.replace}
          </MenuItem>
          <MenuItem icon={<Trash size={16} />} danger onClick={() => (asking.value = [document.id])}>
            {t.list.remove}
          </MenuItem>
        </>
      )}
    </>
  );
}

async function copy(text: string): Promise<void> {
  if (await copyText(text)) toast(shared.copied);
}
