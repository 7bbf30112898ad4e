// Keys: who may do what. A key is shown once, when it is made; after that only what it may do is known.

import { useSignal } from "@preact/signals";
import { useId, useRef } from "preact/hooks";
import { ago } from "../shared/ago";
import { api, get, Problem, sendJson } from "../shared/api";
import { copyField } from "../shared/clipboard";
import { Confirm, Dialog } from "../shared/dialog";
import { date, dateTime } from "../shared/format";
import { Check, Copy, Key as KeyIcon, Plus } from "../shared/icons";
import { ProblemNote } from "../shared/problem";
import { shared } from "../shared/texts";
import { admin } from "../shared/texts-admin";
import { toast } from "../shared/toast";
import { groupsOf } from "../shared/groups";
import { useLoad } from "./load";
import { Empty, Waiting } from "./parts";

const t = admin.keys;
const DAY_MS = 86_400_000;

interface Key {
  id: string;
  name: string;
  scopes: string[];
  groups: string[];
  sees_all: boolean;
  created_ms: number;
  created_by: string | null;
  expires_ms: number | null;
  revoked_ms: number | null;
}

type MadeKey = Key & { key: string };

type State = "active" | "expired" | "revoked";

export function stateOf(key: Pick<Key, "expires_ms" | "revoked_ms">, now_ms: number): State {
  if (key.revoked_ms !== null) return "revoked";
  return key.expires_ms !== null && key.expires_ms <= now_ms ? "expired" : "active";
}

export function Keys() {
  const loaded = useLoad((signal) => get<{ keys: Key[] }>("admin/keys", { signal, cache: "no-store" }));
  const creating = useSignal(false);
  const made = useSignal<MadeKey | null>(null);
  const asking = useSignal<Key | null>(null);
  const past = useSignal(false);
  const { value, problem, reload, set } = loaded;

  const revoke = async (key: Key) => {
    try {
      await api(`admin/keys/${encodeURIComponent(key.id)}`, { method: "DELETE" });
      set((known) => ({ keys: known.keys.map((one) => (one.id === key.id ? { ...one, revoked_ms: Date.now() } : one)) }));
      toast(t.revokedToast(key.name));
    } catch (error) {
      const found = error instanceof Problem ? error : Problem.ofLostConnection(error);
      toast(admin.letters.failed(found.detail || found.title));
    }
  };

  if (problem && value === null) return <ProblemNote problem={problem} onRetry={reload} />;
  if (value === null) return <Waiting />;
  const now_ms = Date.now();
  const sorted = [...value.keys].sort((a, b) => b.created_ms - a.created_ms);
  const active = sorted.filter((key) => stateOf(key, now_ms) === "active");
  const shown = past.value ? sorted : active;
  const columns = t.columns;
  return (
    <>
      <div class="section-bar">
        <button type="button" class="button primary" onClick={() => (creating.value = true)}>
          <Plus size={16} />
          {t.create}
        </button>
        <span class="space" />
        {active.length < sorted.length && (
          <label class="check">
            <input type="checkbox" checked={past.value} onChange={(event) => (past.value = event.currentTarget.checked)} />
            {t.showRevoked(sorted.length - active.length)}
          </label>
        )}
      </div>
      {problem && <ProblemNote problem={problem} onRetry={reload} />}
      {shown.length === 0 ? (
        <Empty icon={<KeyIcon size={28} />} title={t.none} hint={t.noneHint} />
      ) : (
        <div class="table-frame">
          <table class="grid keys">
            <caption class="unseen">{t.caption}</caption>
            <thead>
              <tr>
                <th scope="col">{columns.name}</th>
                <th scope="col">{columns.scopes}</th>
                <th scope="col">{columns.groups}</th>
                <th scope="col">{columns.created}</th>
                <th scope="col">{columns.expires}</th>
                <th scope="col">{columns.state}</th>
                <th>
                  <span class="unseen">{columns.actions}</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {shown.map((key) => (
                <KeyRow key={key.id} value={key} state={stateOf(key, now_ms)} onRevoke={() => (asking.value = key)} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {creating.value && (
        <NewKey
          onClose={() => (creating.value = false)}
          onMade={(key) => {
            creating.value = false;
            made.value = key;
            const { key: _, ...record } = key;
            set((known) => ({ keys: [...known.keys, record] }));
          }}
        />
      )}
      {made.value && <Made value={made.value} onClose={() => (made.value = null)} />}
      {asking.value && (
        <Confirm title={t.revokeTitle} text={t.revokeText(asking.value.name)} action={t.revoke} onConfirm={() => asking.value && void revoke(asking.value)} onClose={() => (asking.value = null)} />
      )}
    </>
  );
}

function KeyRow({ value: key, state, onRevoke }: { value: Key; state: State; onRevoke: () => void }) {
  const columns = t.columns;
  const looks: Record<State, string> = { active: "good", expired: "warn", revoked: "" };
  return (
    <tr class={state === "active" ? "" : "past"}>
      <th scope="row" class="key-name">
        <span>{key.name}</span>
        <span class="muted small">{key.id}</span>
      </th>
      <td data-label={columns.scopes}>
        <span class="groups">
          {key.scopes.map((scope) => (
            <span key={scope} class={`badge ${scope === "admin" ? "accent" : ""}`}>
              {t.scopeTexts[scope]?.[0] ?? scope}
            </span>
          ))}
        </span>
      </td>
      <td data-label={columns.groups}>
        {key.sees_all ? (
          t.everything
        ) : key.groups.length === 0 ? (
          <span class="muted">{t.everybodys}</span>
        ) : (
          <span class="groups">
            {key.groups.map((group) => (
              <span key={group} class="badge">
                {group}
              </span>
            ))}
          </span>
        )}
      </td>
      <td data-label={columns.created} title={dateTime(key.created_ms)}>
        {ago(key.created_ms)}
        {key.created_by !== null && <span class="muted small"> {t.by(key.created_by)}</span>}
      </td>
      <td data-label={columns.expires} class="when" title={key.expires_ms === null ? "" : dateTime(key.expires_ms)}>
        {key.expires_ms === null ? <span class="muted">{t.never}</span> : date(key.expires_ms)}
      </td>
      <td data-label={columns.state}>
        <span class={`badge ${looks[state]}`}>{t[state]}</span>
      </td>
      <td class="row-actions">
        {state !== "revoked" && (
          <button type="button" class="button danger" aria-label={t.revokeOf(key.name)} onClick={onRevoke}>
            {t.revoke}
          </button>
        )}
      </td>
    </tr>
  );
}

const SCOPES = ["ask", "write", "metrics", "admin"] as const;

function NewKey({ onClose, onMade }: { onClose: () => void; onMade: (key: MadeKey) => void }) {
  const id = useId();
  const name = useSignal("");
  const scopes = useSignal<ReadonlySet<string>>(new Set(["ask"]));
  const groups = useSignal("");
  const seesAll = useSignal(false);
  const days = useSignal("0");
  const problem = useSignal<Problem | null>(null);
  const sending = useSignal(false);
  const tried = useSignal(false);
  const [noName, noScope] = [name.value.trim() === "", scopes.value.size === 0];

  const submit = async (event: Event) => {
    event.preventDefault();
    tried.value = true;
    if (noName || noScope || sending.value) return;
    sending.value = true;
    problem.value = null;
    const body = {
      name: name.value.trim(),
      scopes: SCOPES.filter((scope) => scopes.value.has(scope)),
      groups: seesAll.value ? [] : groupsOf(groups.value),
      sees_all: seesAll.value,
      expires_ms: days.value === "0" ? null : Date.now() + Number(days.value) * DAY_MS,
    };
    try {
      onMade((await (await sendJson("POST", "admin/keys", body)).json()) as MadeKey);
    } catch (error) {
      problem.value = error instanceof Problem ? error : Problem.ofLostConnection(error);
      sending.value = false;
    }
  };

  return (
    <Dialog title={t.create} onClose={onClose}>
      <form class="new-key" onSubmit={(event) => void submit(event)} noValidate>
        <div class="field">
          <label for={`${id}-name`}>{t.name}</label>
          <input id={`${id}-name`} class="input" autofocus autocomplete="off" maxLength={100} placeholder={t.namePlaceholder} value={name.value} aria-invalid={tried.value && noName} aria-describedby={`${id}-name-wrong`} onInput={(event) => (name.value = event.currentTarget.value)} />
          <p id={`${id}-name-wrong`} class="small wrong" role="alert">
            {tried.value && noName && t.nameMissing}
          </p>
        </div>
        <fieldset>
          <legend class="label">{t.scopes}</legend>
          {SCOPES.map((scope) => (
            <label class="check" key={scope}>
              <input
                type="checkbox"
                checked={scopes.value.has(scope)}
                onChange={(event) => {
                  const next = new Set(scopes.value);
                  if (event.currentTarget.checked) next.add(scope);
                  else next.delete(scope);
                  scopes.value = next;
                }}
              />
              <span>
                {t.scopeTexts[scope]?.[0]} <span class="muted small">{t.scopeTexts[scope]?.[1]}</span>
              </span>
            </label>
          ))}
          <p class="small wrong" role="alert">
            {tried.value && noScope && t.scopesMissing}
          </p>
        </fieldset>
        <div class="field">
          <label for={`${id}-groups`}>{t.groups}</label>
          <input id={`${id}-groups`} class="input" autocomplete="off" spellcheck={false} disabled={seesAll.value} value={groups.value} aria-describedby={`${id}-groups-hint`} onInput={(event) => (groups.value = event.currentTarget.value)} />
          <p class="small muted" id={`${id}-groups-hint`}>
            {t.groupsHint}
          </p>
        </div>
        <label class="check">
          <input type="checkbox" checked={seesAll.value} onChange={(event) => (seesAll.value = event.currentTarget.checked)} />
          {t.seesAll}
        </label>
        <div class="field">
          <label for={`${id}-expires`}>{t.expires}</label>
          <select id={`${id}-expires`} class="input" value={days.value} onChange={(event) => (days.value = event.currentTarget.value)}>
            {Object.entries(t.expiresIn).map(([value, text]) => (
              <option key={value} value={value}>
                {text}
              </option>
            ))}
          </select>
        </div>
        {problem.value && <ProblemNote problem={problem.value} />}
        <div class="actions">
          <button type="button" class="button" onClick={onClose}>
            {shared.cancel}
          </button>
          <button type="submit" class="button primary" disabled={sending.value}>
            {sending.value && <span class="spinner" />}
            {t.make}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function Made({ value, onClose }: { value: MadeKey; onClose: () => void }) {
  const copied = useSignal<boolean | null>(null);
  const field = useRef<HTMLInputElement>(null);
  const copy = async () => {
    if (field.current !== null) copied.value = await copyField(field.current);
  };
  return (
    <Dialog title={t.made} onClose={onClose} firm>
      <p>{value.name}</p>
      <p class="note warn">{t.once}</p>
      <div class="made">
        <input ref={field} class="input" readOnly aria-label={t.key} value={value.key} onFocus={(event) => event.currentTarget.select()} />
        <button type="button" class="button primary" onClick={() => void copy()}>
          {copied.value ? <Check size={16} /> : <Copy size={16} />}
          {copied.value ? shared.copied : t.copyKey}
        </button>
      </div>
      <div role="alert">{copied.value === false && <p class="note bad">{t.notCopied}</p>}</div>
      <div class="actions">
        <button type="button" class="button" onClick={onClose}>
          {t.done}
        </button>
      </div>
    </Dialog>
  );
}
