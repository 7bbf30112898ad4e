// The dialog that asks for a key, wherever the service wants to know who asks.

import { useSignal } from "@preact/signals";
import { Dialog } from "./dialog";
import { cancelSignIn, signIn, signingIn } from "./session";
import { shared } from "./texts";

const t = shared.session;

export function SignIn() {
  return signingIn.value ? <SignInDialog /> : null;
}

function SignInDialog() {
  const problem = useSignal("");
  const busy = useSignal(false);

  async function submit(event: SubmitEvent) {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    busy.value = true;
    problem.value = "";
    try {
      if (!(await signIn(String(form.get("key")).trim(), form.has("keep")))) problem.value = t.wrong;
    } catch {
      problem.value = t.failed;
    }
    busy.value = false;
  }

  return (
    <Dialog title={t.signIn} onClose={cancelSignIn}>
      <form class="signin" onSubmit={submit}>
        <p class="muted">{t.text}</p>
        <div class="field">
          <label for="signin-key">{t.key}</label>
          <input id="signin-key" class="input" name="key" type="password" autocomplete="current-password" spellcheck={false} required autofocus aria-describedby="signin-problem" />
        </div>
        <label class="check">
          <input type="checkbox" name="keep" />
          {t.keep}
        </label>
        <div id="signin-problem" role="alert">
          {problem.value && <p class="note bad">{problem}</p>}
        </div>
        <div class="actions">
          <button type="submit" class="button primary" disabled={busy.value}>
            {busy.value ? t.checking : t.signIn}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
