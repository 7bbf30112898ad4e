// The bar on top of all pages: where one is, whether the service is well, the theme, and who is signed in.

import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import logo from "./icon.svg";
import { health, watchHealth } from "./health";
import { Check, Key, Moon, Sun, System, User } from "./icons";
import { MenuItem, Popover } from "./menu";
import { askToSignIn, keyWanted, loadMe, may, me, signedIn, signOut } from "./session";
import { SignIn } from "./signin";
import { shared as t } from "./texts";
import { choose, theme, type Theme } from "./theme";
import { Toasts } from "./toast";
import "./theme.css";

export type Page = "chat" | "documents" | "admin" | "docs";

interface TopBarProps {
  page: Page;
  /** At the start of the bar, before the name. */
  before?: ComponentChildren;
}

/** The bar, with the dialogs and notices that every page has. The page's content is in an element `main`. */
export function TopBar({ page, before }: TopBarProps) {
  useEffect(() => {
    watchHealth();
    void loadMe(page === "docs");
  }, []);
  const link = (to: Page, href: string, text: string) => (
    <a href={href} aria-current={to === page ? "page" : undefined}>
      {text}
    </a>
  );
  return (
    <>
      <a class="button skip" href="#main" onClick={toMain}>
        {t.skip}
      </a>
      <header class="topbar">
        {before}
        <a class="brand" href="./" aria-label="answerd">
          <img src={logo} alt="" width={24} height={24} />
          <span>answerd</span>
        </a>
        <nav aria-label={t.pages}>
          {link("chat", "./", t.chat)}
          {link("documents", "documents", t.documents)}
          {may("admin") && link("admin", "admin", t.admin)}
          {page === "docs" && link("docs", "docs", t.docs)}
        </nav>
        <div class="space" />
        <HealthLight />
        <ThemeSwitch />
        <Account />
      </header>
      <SignIn />
      <Toasts />
    </>
  );
}

/** The address stays as it is: what comes after its `#` names a conversation or a section. */
function toMain(event: MouseEvent): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function HealthLight() {
  const { state, reasons } = health.value;
  const kind = { checking: "", ready: "good", degraded: "warn", unavailable: "bad", unreachable: "bad" }[state];
  const texts = t.health;
  const name = texts[state];
  return (
    <Popover
      kind="panel"
      label={texts.label(name)}
      class="button quiet health"
      face={
        <>
          <span class={`dot ${kind}`} />
          <span>{name}</span>
        </>
      }
    >
      <div class="body">
        <p>{state === "checking" ? texts.checking : texts[`${state}Text`]}</p>
        {reasons.length > 0 && (
          <ul>
            {reasons.map((reason) => (
              <li key={reason}>{reason}</li>
            ))}
          </ul>
        )}
      </div>
    </Popover>
  );
}

function ThemeSwitch() {
  const faces: Record<Theme, typeof Sun> = { system: System, light: Sun, dark: Moon };
  const Face = faces[theme.value];
  return (
    <Popover label={`${t.theme.label}: ${t.theme[theme.value]}`} face={<Face />}>
      {(["system", "light", "dark"] as const).map((one) => {
        const Icon = faces[one];
        return (
          <MenuItem key={one} icon={<Icon size={16} />} checked={theme.value === one} onClick={() => choose(one)}>
            <span style={{ flex: 1 }}>{t.theme[one]}</span>
            {theme.value === one && <Check size={16} />}
          </MenuItem>
        );
      })}
    </Popover>
  );
}

function Account() {
  const who = me.value;
  if (!signedIn.value) {
    if (!who?.identity && !keyWanted.value) return null;
    return (
      <button type="button" class="button signin-button" aria-label={t.session.signIn} onClick={() => void askToSignIn()}>
        <Key size={16} />
        <span>{t.session.signIn}</span>
      </button>
    );
  }
  return (
    <Popover kind="panel" label={who ? t.session.account(who.name) : t.session.signIn} face={<User />}>
      <div class="body account">
        {who && (
          <>
            <p>
              <strong>{who.name}</strong>
            </p>
            {who.scopes.length > 0 && <p class="muted small">{t.session.scopes(who.scopes)}</p>}
            {who.sees_all ? <p class="muted small">{t.session.everything}</p> : who.groups.length > 0 && <p class="muted small">{t.session.groups(who.groups)}</p>}
          </>
        )}
        <button type="button" class="button" onClick={signOut}>
          <Key size={16} />
          {t.session.signOut}
        </button>
      </div>
    </Popover>
  );
}
