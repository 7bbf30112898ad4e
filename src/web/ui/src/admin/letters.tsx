// Dead letters: events that could not be carried out, with the reason; they are published again, or deleted.

import { useSignal } from "@preact/signals";
import { ago } from "../shared/ago";
import { api, get, Problem } from "../shared/api";
import { Confirm } from "../shared/dialog";
import { bytes, dateTime, number } from "../shared/format";
import { Check, Offline, Retry, Trash } from "../shared/icons";
import { ProblemNote } from "../shared/problem";
import { admin } from "../shared/texts-admin";
import { toast } from "../shared/toast";
import { useLoad } from "./load";
import { Empty, Waiting } from "./parts";

const t = admin.letters;
const PAGE = 50;

interface Letter {
  id: string;
  at_ms: number;
  subject: string;
  document_id: string | null;
  event_id: string | null;
  reason: string;
  attempts: number;
  bytes: number;
}

interface Page {
  bus: boolean;
  letters: Letter[];
  next: string | null;
}

const page = (after: string | null, signal?: AbortSignal) =>
  get<Page>(`admin/dead-letters?${new URLSearchParams({ limit: String(PAGE), ...(after !== null && { after }) })}`, { cache: "no-store", ...(signal && { signal }) });

const pathOf = (letter: Letter) => `admin/dead-letters/${encodeURIComponent(letter.id)}`;

export function Letters() {
  const loaded = useLoad((signal) => page(null, signal));
  const busy = useSignal<ReadonlySet<string>>(new Set());
  const asking = useSignal<Letter | null>(null);
  const { value, problem, reload, set } = loaded;

  const drop = (id: string) => set((known) => ({ ...known, letters: known.letters.filter((letter) => letter.id !== id) }));

  /** Does something to letters, a few at a time; those it was done to are off the list. Returns how many. */
  const each = async (letters: readonly Letter[], act: (letter: Letter) => Promise<unknown>): Promise<number> => {
    const left = [...letters];
    let count = 0;
    let why: Problem | null = null;
    busy.value = new Set([...busy.value, ...letters.map((letter) => letter.id)]);
    const some = async () => {
      for (let letter = left.shift(); letter; letter = left.shift()) {
        try {
          await act(letter);
          count++;
          drop(letter.id);
        } catch (error) {
          const found = error instanceof Problem ? error : Problem.ofLostConnection(error);
          if (found.status === 404) drop(letter.id);
          why = found;
        }
        const { id } = letter;
        busy.value = new Set([...busy.value].filter((one) => one !== id));
      }
    };
    await Promise.all([some(), some(), some()]);
    if (why !== null) toast((why as Problem).status === 404 ? t.goneAlready : t.failed((why as Problem).detail || (why as Problem).title));
    return count;
  };
  const retry = async (letters: readonly Letter[]) => {
    const count = await each(letters, (letter) => api(`${pathOf(letter)}/retry`, { method: "POST" }));
    if (count > 0) toast(t.retried(count));
  };
  const more = async (after: string) => {
    try {
      const next = await page(after);
      set((known) => ({ ...next, letters: [...known.letters, ...next.letters] }));
    } catch (error) {
      toast(t.failed(error instanceof Problem ? error.detail || error.title : String(error)));
    }
  };

  if (problem && value === null) return <ProblemNote problem={problem} onRetry={reload} />;
  if (value === null) return <Waiting />;
  if (!value.bus) return <Empty icon={<Offline size={28} />} title={t.noBus} hint={t.noBusHint} />;
  const columns = t.columns;
  return (
    <>
      <div class="section-bar">
        <button type="button" class="button" onClick={reload}>
          {loaded.loading ? <span class="spinner" /> : <Retry size={16} />}
          {admin.refresh}
        </button>
        <span class="space" />
        {value.letters.length > 0 && (
          <button type="button" class="button" disabled={busy.value.size > 0} onClick={() => void retry(value.letters)}>
            <Retry size={16} />
            {t.retryAll(value.letters.length)}
          </button>
        )}
      </div>
      {problem && <ProblemNote problem={problem} onRetry={reload} />}
      {value.letters.length === 0 ? (
        <Empty icon={<Check size={28} />} title={t.none} hint={t.noneHint} />
      ) : (
        <div class="table-frame">
          <table class="grid letters">
            <caption class="unseen">{t.caption}</caption>
            <thead>
              <tr>
                <th scope="col">{columns.document}</th>
                <th scope="col">{columns.reason}</th>
                <th scope="col">{columns.at}</th>
                <th scope="col" class="number">{columns.attempts}</th>
                <th scope="col" class="number">{columns.bytes}</th>
                <th>
                  <span class="unseen">{columns.actions}</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {value.letters.map((letter) => (
                <tr key={letter.id}>
                  <th scope="row" class="letter-about">
                    <span>{letter.document_id ?? t.noDocument}</span>
                    <span class="muted small" title={letter.event_id === null ? "" : `${t.event} ${letter.event_id}`}>
                      {letter.subject}
                    </span>
                  </th>
                  <td class="reason" data-label={columns.reason}>{letter.reason}</td>
                  <td data-label={columns.at} class="when" title={dateTime(letter.at_ms)}>{ago(letter.at_ms)}</td>
                  <td data-label={columns.attempts} class="number">{number(letter.attempts)}</td>
                  <td data-label={columns.bytes} class="number when">{bytes(letter.bytes)}</td>
                  <td class="row-actions">
                    <button type="button" class="button" aria-label={t.retryOf(letter.id)} disabled={busy.value.has(letter.id)} onClick={() => void retry([letter])}>
                      {busy.value.has(letter.id) ? <span class="spinner" /> : t.retry}
                    </button>
                    <button type="button" class="icon-button" aria-label={t.removeOf(letter.id)} title={t.removeOf(letter.id)} disabled={busy.value.has(letter.id)} onClick={() => (asking.value = letter)}>
                      <Trash size={16} />
                    </button>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {value.next !== null && (
        <button type="button" class="button more" onClick={() => value.next !== null && void more(value.next)}>
          {admin.more}
        </button>
      )}
      {asking.value && (
        <Confirm
          title={t.removeTitle}
          text={t.removeText(asking.value.document_id ?? asking.value.subject)}
          action={t.remove}
          onConfirm={() => asking.value && void each([asking.value], (letter) => api(pathOf(letter), { method: "DELETE" }))}
          onClose={() => (asking.value = null)}
        />
      )}
    </>
  );
}
