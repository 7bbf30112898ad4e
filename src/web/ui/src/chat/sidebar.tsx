// The conversations that this browser keeps: opened, searched, renamed, exported, deleted.

import { signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Confirm, Dialog } from "../shared/dialog";
import { Download, Edit, More, NewChat, Search, Trash } from "../shared/icons";
import { MenuItem, Popover } from "../shared/menu";
import { chat, shared } from "../shared/texts";
import { allConversations, begin, busy, conversationOf, entries, open, openId, remove, removeAll, rename, search } from "./conversations";
import { asMarkdown, fileName, save } from "./export";
import type { Entry } from "./types";

const t = chat.sidebar;

const renaming = signal<Entry | null>(null);
const deletingAll = signal(false);

interface SidebarProps {
  /** It lies over the conversation, and goes once something was chosen. */
  over: boolean;
  onClose: () => void;
}

export function Sidebar({ over, onClose }: SidebarProps) {
  const wanted = useSignal("");
  const found = useSignal<Set<string> | null>(null);
  const box = useRef<HTMLElement>(null);

  useEffect(() => {
    const text = wanted.value.trim();
    if (text === "") {
      found.value = null;
      return;
    }
    // A word is written letter by letter; one search at its end will do.
    let current = true;
    const timer = setTimeout(() => void search(text).then((ids) => current && (found.value = ids)), 150);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [wanted.value, entries.value]);

  useEffect(() => {
    if (!over) return;
    box.current?.querySelector<HTMLElement>("button")?.focus();
    const escape = (event: KeyboardEvent) => {
      // What lies over it goes first.
      if (event.key !== "Escape" || document.querySelector("dialog[open]") !== null || box.current?.querySelector(":popover-open")) return;
      onClose();
      document.getElementById("sidebar-toggle")?.focus();
    };
    addEventListener("keydown", escape);
    return () => removeEventListener("keydown", escape);
  }, [over]);

  const choose = (work: () => void) => {
    work();
    if (over) onClose();
  };
  const all = entries.value;
  const listed = all?.filter((entry) => found.value === null || found.value.has(entry.id)) ?? null;

  return (
    <>
      {over && <div class="scrim" onClick={onClose} />}
      <aside ref={box} id="sidebar" class={`sidebar ${over ? "over" : ""}`} aria-label={t.label}>
        <div class="sidebar-head">
          <button type="button" id="new" class="button begin" onClick={() => choose(begin)}>
            <NewChat size={16} />
            {t.begin}
          </button>
          <Popover label={t.all} face={<More />}>
            <MenuItem icon={<Download size={16} />} onClick={() => void exportAll()}>
              {t.exportAll}
            </MenuItem>
            <MenuItem icon={<Trash size={16} />} danger onClick={() => (deletingAll.value = true)}>
              {t.deleteAll}
            </MenuItem>
          </Popover>
        </div>
        <div class="sidebar-search">
          <Search size={15} />
          <input class="input" type="search" aria-label={t.search} placeholder={t.search} value={wanted} onInput={(event) => (wanted.value = event.currentTarget.value)} />
        </div>
        <nav class="sidebar-list" aria-label={t.label}>
          {listed === null ? (
            <ListLoading />
          ) : listed.length === 0 ? (
            <p class="muted small sidebar-none" role="status">{all!.length === 0 ? t.none : t.nothing}</p>
          ) : (
            groupsOf(listed).map(([name, members]) => (
              <section key={name}>
                <h2>{name}</h2>
                <ul>
                  {members.map((entry) => (
                    <Item key={entry.id} entry={entry} onOpen={() => choose(() => void open(entry.id))} onRename={() => (renaming.value = entry)} />
                  ))}
                </ul>
              </section>
            ))
          )}
        </nav>
      </aside>
    </>
  );
}

/** The dialogs of the list. They stay where the list goes, as when a window becomes narrow. */
export function SidebarDialogs() {
  return (
    <>
      {renaming.value && <RenameDialog entry={renaming.value} onClose={() => (renaming.value = null)} />}
      {deletingAll.value && (
        <Confirm title={t.deleteAllTitle} text={t.deleteAllText(entries.value?.length ?? 0)} action={t.delete} onConfirm={() => void removeAll()} onClose={() => (deletingAll.value = false)} />
      )}
    </>
  );
}

function ListLoading() {
  return (
    <div class="sidebar-loading" role="status" aria-label={shared.loading}>
      {[70, 85, 60].map((width, at) => (
        <div key={at} class="skeleton" style={{ width: `${width}%` }} />
      ))}
    </div>
  );
}

interface ItemProps {
  entry: Entry;
  onOpen: () => void;
  onRename: () => void;
}

function Item({ entry, onOpen, onRename }: ItemProps) {
  const { id, title } = entry;
  const isOpen = openId.value === id;
  return (
    <li class={`entry ${isOpen ? "open" : ""}`}>
      <a
        href={`#c=${id}`}
        aria-current={isOpen ? "page" : undefined}
        title={title}
        onClick={(event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab or window of its own
          event.preventDefault();
          onOpen();
        }}
      >
        <span class="truncate">{title}</span>
        {busy.value.has(id) && <span class="spinner" role="img" aria-label={t.writing} />}
      </a>
      <Popover label={t.menu(title)} title={t.more} face={<More size={16} />}>
        <MenuItem icon={<Edit size={16} />} onClick={onRename}>
          {t.rename}
        </MenuItem>
        <MenuItem icon={<Download size={16} />} onClick={() => void exportOne(id, "md")}>
          {t.exportMarkdown}
        </MenuItem>
        <MenuItem icon={<Download size={16} />} onClick={() => void exportOne(id, "json")}>
          {t.exportJson}
        </MenuItem>
        <MenuItem icon={<Trash size={16} />} danger onClick={() => void remove(id)}>
          {t.delete}
        </MenuItem>
      </Popover>
    </li>
  );
}

function RenameDialog({ entry, onClose }: { entry: Entry; onClose: () => void }) {
  return (
    <Dialog title={t.renameTitle} onClose={onClose}>
      <form
        class="rename"
        onSubmit={(event) => {
          event.preventDefault();
          void rename(entry.id, String(new FormData(event.currentTarget as HTMLFormElement).get("name")));
          onClose();
        }}
      >
        <div class="field">
          <label for="rename-name">{t.name}</label>
          <input id="rename-name" class="input" name="name" required maxlength={200} defaultValue={entry.title} autofocus onFocus={(event) => event.currentTarget.select()} />
        </div>
        <div class="actions">
          <button type="button" class="button" onClick={onClose}>
            {shared.cancel}
          </button>
          <button type="submit" class="button primary">
            {t.save}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

async function exportOne(id: string, kind: "md" | "json"): Promise<void> {
  const conversation = await conversationOf(id);
  if (conversation === null) return;
  const name = `${fileName(conversation.title)}.${kind}`;
  if (kind === "md") save(name, "text/markdown", asMarkdown(conversation));
  else save(name, "application/json", JSON.stringify(conversation, null, 2));
}

async function exportAll(): Promise<void> {
  save("answerd-conversations.json", "application/json", JSON.stringify(await allConversations(), null, 2));
}

/** By how long ago something was last asked. */
function groupsOf(list: Entry[]): [string, Entry[]][] {
  const today = new Date().setHours(0, 0, 0, 0);
  const day = 86_400_000;
  const groups = new Map<string, Entry[]>();
  for (const entry of list) {
    const at = entry.updatedMs;
    const name = at >= today ? t.today : at >= today - day ? t.yesterday : at >= today - 7 * day ? t.week : t.earlier;
    groups.set(name, [...(groups.get(name) ?? []), entry]);
  }
  return [...groups];
}
