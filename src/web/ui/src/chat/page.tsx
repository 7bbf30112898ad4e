// The chat page as a whole: conversations at the side, the open one in the middle, the question box below it.

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Sidebar as SidebarIcon } from "../shared/icons";
import { local } from "../shared/kept";
import { PassageHost } from "../shared/passage";
import { chat as t } from "../shared/texts";
import { TopBar } from "../shared/topbar";
import { Composer } from "./composer";
import { Conversation } from "./conversation";
import { openId, openTitle } from "./conversations";
import { Sidebar, SidebarDialogs } from "./sidebar";

const SHOWN = "answerd.sidebar";
const wide = matchMedia("(min-width: 900px)");

/** Whether the conversations are shown; on a small screen they lie over the open one. */
const sidebarShown = signal(wide.matches && local.get(SHOWN) !== "no");
const isWide = signal(wide.matches);

function showSidebar(shown: boolean): void {
  sidebarShown.value = shown;
  if (isWide.value) local.set(SHOWN, shown ? "yes" : "no");
}

export function ChatPage() {
  useEffect(() => {
    const change = () => {
      isWide.value = wide.matches;
      sidebarShown.value = wide.matches && local.get(SHOWN) !== "no";
    };
    wide.addEventListener("change", change);
    return () => wide.removeEventListener("change", change);
  }, []);
  useEffect(() => {
    document.title = openTitle.value === null ? "answerd" : `${openTitle.value} – answerd`;
  }, [openTitle.value]);

  const shown = sidebarShown.value;
  const over = shown && !isWide.value;
  return (
    <>
      <TopBar
        page="chat"
        before={
          <button type="button" id="sidebar-toggle" class="icon-button" aria-label={shown ? t.sidebar.hide : t.sidebar.show} title={shown ? t.sidebar.hide : t.sidebar.show} aria-expanded={shown} aria-controls="sidebar" onClick={() => showSidebar(!shown)}>
            <SidebarIcon />
          </button>
        }
      />
      <div class="chat">
        {shown && <Sidebar over={over} onClose={() => showSidebar(false)} />}
        <main id="main" class="chat-main" tabindex={-1} inert={over}>
          <Conversation key={openId.value ?? "new"} />
          <Composer />
        </main>
      </div>
      <SidebarDialogs />
      <PassageHost />
    </>
  );
}
