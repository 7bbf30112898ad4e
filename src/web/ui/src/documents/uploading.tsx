// Where documents come in: the place to drop files and folders, the pickers, where the documents go, and the uploads.

import { signal, useComputed, useSignal } from "@preact/signals";
import { useEffect, useId, useRef } from "preact/hooks";
import { Check, ChevronDown, ChevronRight, Close, File as FileIcon, Folder, Retry, Upload as UploadIcon, Warning } from "../shared/icons";
import type { Problem } from "../shared/api";
import { groupsOf } from "../shared/groups";
import { documents as t } from "../shared/texts-documents";
import { toast } from "../shared/toast";
import { isCollection } from "./ids";
import { collections } from "./list";
import { dropped, picked, walk, type Found } from "./traverse";
import { add, busy, cancel, clear, counts, done, failed, failures, isOver, retry, uploads, type Reasons, type Stage, type Upload } from "./uploads";

/** Files taken at once. More than that is work for the command line, and mostly a slip of the hand. */
const LIMIT = 10_000;
/** Uploads shown before asking for more: a list of thousands would be slow, and nobody reads it. */
const SHOWN = 50;

export const place = signal({ collection: "default", groups: "", prefix: "" });
const walking = signal(false);

export const reasons: Reasons = {
  ...t.uploads.reasons,
  of: ({ title, detail, type }: Problem) => (detail !== "" ? detail : title !== "" ? title : type) || t.uploads.reasons.unknown,
};

/** Takes files that were chosen. */
function take(found: readonly Found[]): void {
  const { collection, groups, prefix } = place.value;
  if (found.length === 0) return toast(t.upload.nothing);
  if (found.length > LIMIT) toast(t.upload.tooMany(LIMIT));
  const named = groupsOf(groups);
  const without = add(found.slice(0, LIMIT), { collection, visibleTo: named.length === 0 ? null : named, prefix }, reasons);
  if (without.length > 0) toast(t.upload.withoutId(without));
}

/** Takes what was dropped, folders to their end. */
export async function takeDrop(items: DataTransferItemList): Promise<void> {
  if (!isCollection(place.value.collection)) return toast(t.upload.wrongCollection);
  // Before anything is awaited: the items are gone once the event is over.
  const drop = dropped(items);
  walking.value = true;
  try {
    const { files, unreadable } = await walk(drop, LIMIT);
    if (unreadable.length > 0) toast(t.upload.unreadable(unreadable));
    if (files.length > 0 || unreadable.length === 0) take(files);
    if (files.length === LIMIT) toast(t.upload.tooMany(LIMIT));
  } finally {
    walking.value = false;
  }
}

export function Uploading() {
  const options = useSignal(false);
  const id = useId();
  const files = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  const { collection, groups, prefix } = place.value;
  const valid = isCollection(collection);
  const chosen = (event: Event) => {
    const input = event.currentTarget as HTMLInputElement;
    take(picked(input.files ?? []));
    // So that the same file can be chosen again.
    input.value = "";
  };
  useEffect(() => {
    // Not an attribute that the view library knows.
    folder.current?.setAttribute("webkitdirectory", "");
    const warn = (event: BeforeUnloadEvent) => {
      if ((counts.value.waiting ?? 0) + (counts.value.sending ?? 0) > 0) event.preventDefault();
    };
    addEventListener("beforeunload", warn);
    return () => removeEventListener("beforeunload", warn);
  }, []);
  return (
    <section class="card uploading" aria-label={t.upload.heading}>
      <div class="drop">
        <UploadIcon size={22} />
        <div class="drop-text">
          <p class="drop-title">{walking.value ? t.upload.walking : t.upload.drop}</p>
          <p class="muted small">{t.upload.formats}</p>
        </div>
        <div class="drop-buttons">
          <button type="button" class="button primary" disabled={!valid} onClick={() => files.current?.click()}>
            <FileIcon size={16} />
            {t.upload.files}
          </button>
          <button type="button" class="button" disabled={!valid} onClick={() => folder.current?.click()}>
            <Folder size={16} />
            {t.upload.folder}
          </button>
        </div>
        <input ref={files} id={`${id}-files`} type="file" multiple hidden aria-label={t.upload.files} onChange={chosen} />
        <input ref={folder} id={`${id}-folder`} type="file" multiple hidden aria-label={t.upload.folder} onChange={chosen} />
      </div>
      <button type="button" class="button quiet options-toggle" aria-expanded={options.value} aria-controls={`${id}-options`} onClick={() => (options.value = !options.value)}>
        {options.value ? <ChevronDown size={16} /> : <ChevronRight size={16} />}
        <span class="options-summary">{options.value ? t.upload.options : t.upload.summary(collection, groupsOf(groups), prefix)}</span>
      </button>
      <div class="options" id={`${id}-options`} hidden={!options.value}>
        <div class="field">
          <label for={`${id}-collection`}>{t.upload.collection}</label>
          <input
            id={`${id}-collection`}
            class="input"
            list={`${id}-collections`}
            autocomplete="off"
            autocapitalize="off"
            spellcheck={false}
            maxLength={64}
            value={collection}
            aria-invalid={!valid}
            aria-describedby={`${id}-collection-hint`}
            onInput={(event) => (place.value = { ...place.value, collection: event.currentTarget.value.trim() })}
          />
          <datalist id={`${id}-collections`}>
            {collections.value.map(({ name }) => (
              <option key={name} value={name} />
            ))}
          </datalist>
          <p class={`small ${valid ? "muted" : "wrong"}`} id={`${id}-collection-hint`}>
            {t.upload.collectionHint}
          </p>
        </div>
        <div class="field">
          <label for={`${id}-groups`}>{t.upload.visibleTo}</label>
          <input
            id={`${id}-groups`}
            class="input"
            autocomplete="off"
            spellcheck={false}
            placeholder={t.upload.visibleToPlaceholder}
            value={groups}
            aria-describedby={`${id}-groups-hint`}
            onInput={(event) => (place.value = { ...place.value, groups: event.currentTarget.value })}
          />
          <p class="small muted" id={`${id}-groups-hint`}>
            {t.upload.visibleToHint}
          </p>
        </div>
        <div class="field">
          <label for={`${id}-prefix`}>{t.upload.prefix}</label>
          <input
            id={`${id}-prefix`}
            class="input"
            autocomplete="off"
            spellcheck={false}
            placeholder={t.upload.prefixPlaceholder}
            value={prefix}
            onInput={(event) => (place.value = { ...place.value, prefix: event.currentTarget.value.replace(/^\/+|\/+$/g, "") })}
          />
        </div>
      </div>
      <Uploads />
    </section>
  );
}

function Uploads() {
  const all = useSignal(false);
  const announced = useSignal("");
  // Said once, when the last one is over: a running commentary would talk over everything else.
  const over = useComputed(() => uploads.value.length > 0 && busy.value === 0);
  useEffect(() => over.subscribe((is) => (announced.value = is ? t.uploads.announce(done.value, failed.value) : "")), []);
  // What failed is for somebody to see to: it stands first, however many there are.
  const failing = new Set(failures.value);
  const sorted = failing.size === 0 ? uploads.value : [...failing, ...uploads.value.filter((upload) => !failing.has(upload))];
  const shown = all.value ? sorted : sorted.slice(0, SHOWN);
  return (
    <>
      <p class="unseen" role="status">
        {announced}
      </p>
      {uploads.value.length > 0 && (
        <div class="uploads">
          <header>
            <h2>{t.uploads.heading}</h2>
            <Totals />
            <span class="space" />
            <FailedButton />
            <ClearButton />
          </header>
          <ul>
            {shown.map((upload) => (
              <UploadRow key={upload.key} upload={upload} />
            ))}
          </ul>
          {shown.length < uploads.value.length && (
            <button type="button" class="button quiet" onClick={() => (all.value = true)}>
              {t.uploads.more(uploads.value.length - shown.length)}
            </button>
          )}
        </div>
      )}
    </>
  );
}

function Totals() {
  return <span class="muted small">{t.uploads.counts(busy.value, done.value, failed.value)}</span>;
}

function FailedButton() {
  if (failed.value === 0) return null;
  return (
    <button type="button" class="button" onClick={() => uploads.value.forEach((upload) => retry(upload, reasons))}>
      <Retry size={16} />
      {t.uploads.retryAll}
    </button>
  );
}

function ClearButton() {
  if (done.value + failed.value === 0) return null;
  return (
    <button type="button" class="button quiet" onClick={clear}>
      {t.uploads.clear}
    </button>
  );
}

/** The way of a document, in steps. */
const STEPS = ["sending", "received", "parsed", "embedded", "visible"] as const;
const REACHED: Record<Stage, number> = { waiting: 0, sending: 0, received: 2, parsed: 3, embedded: 4, visible: 5, unchanged: 5, unwatched: 2, failed: 0, cancelled: 0 };

function UploadRow({ upload }: { upload: Upload }) {
  const stage = upload.stage.value;
  const reason = upload.reason.value;
  const over = isOver(stage);
  const good = stage === "visible" || stage === "unchanged" || stage === "unwatched";
  return (
    <li class={`upload ${stage}`}>
      <span class="upload-icon">{good ? <Check size={18} /> : stage === "failed" ? <Warning size={18} /> : over ? <Close size={18} /> : <span class="spinner" />}</span>
      <div class="upload-what">
        <p class="truncate" title={upload.id}>
          {upload.id}
        </p>
        {reason !== null && <p class={`small ${stage === "failed" ? "wrong" : "muted"}`}>{reason}</p>}
        {!over && <Steps upload={upload} stage={stage} />}
      </div>
      <span class="upload-state small">{stage === "sending" ? <Sent upload={upload} /> : t.uploads.stages[stage]}</span>
      {stage === "waiting" || stage === "sending" ? (
        <button type="button" class="icon-button" aria-label={t.uploads.cancel(upload.id)} title={t.uploads.cancel(upload.id)} onClick={() => cancel(upload)}>
          <Close size={16} />
        </button>
      ) : stage === "failed" || stage === "cancelled" ? (
        <button type="button" class="icon-button" aria-label={t.uploads.retry(upload.id)} title={t.uploads.retry(upload.id)} onClick={() => retry(upload, reasons)}>
          <Retry size={16} />
        </button>
      ) : (
        <span class="icon-space" />
      )}
    </li>
  );
}

function Sent({ upload }: { upload: Upload }) {
  return <>{t.uploads.sent(upload.sent.value, upload.file.size)}</>;
}

function Steps({ upload, stage }: { upload: Upload; stage: Stage }) {
  const sent = upload.file.size === 0 ? 0 : upload.sent.value / upload.file.size;
  const reached = REACHED[stage];
  const share = (reached + (stage === "sending" ? sent : 0)) / STEPS.length;
  return (
    <div class="steps" role="progressbar" aria-label={t.uploads.progress(upload.id)} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(share * 100)} aria-valuetext={t.uploads.stages[stage]}>
      {STEPS.map((step, at) => (
        <span key={step} class={at < reached ? "full" : at === reached && stage !== "sending" && stage !== "waiting" ? "now" : ""}>
          {at === 0 && stage === "sending" && <i style={{ width: `${sent * 100}%` }} />}
        </span>
      ))}
    </div>
  );
}

/** Shown over the page while something is dragged across it. */
export function DropVeil({ onDrop }: { onDrop: (items: DataTransferItemList) => void }) {
  const over = useSignal(false);
  useEffect(() => {
    let depth = 0;
    const files = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const set = (inside: number) => {
      depth = Math.max(0, inside);
      over.value = depth > 0;
    };
    const listeners: [keyof WindowEventMap, (event: DragEvent) => void][] = [
      ["dragenter", (event) => files(event) && (event.preventDefault(), set(depth + 1))],
      ["dragover", (event) => files(event) && event.preventDefault()],
      ["dragleave", (event) => files(event) && set(depth - 1)],
      [
        "drop",
        (event) => {
          if (!files(event) || !event.dataTransfer) return;
          // Else the browser would leave the page and open the file.
          event.preventDefault();
          set(0);
          onDrop(event.dataTransfer.items);
        },
      ],
    ];
    for (const [name, listener] of listeners) addEventListener(name, listener as EventListener);
    return () => {
      for (const [name, listener] of listeners) removeEventListener(name, listener as EventListener);
    };
  }, []);
  return (
    <div class="veil" hidden={!over.value}>
      <p>
        <UploadIcon size={28} />
        {t.upload.dropNow}
      </p>
    </div>
  );
}
