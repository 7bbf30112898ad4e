// Drives the pages of an answerd that asks who calls, in Chromium.
//
//     npm ci && ASKER=ak_… ADMIN=ak_… node signin.mjs http://127.0.0.1:8080 screenshots
//
// ASKER is a key that may ask, of the group `hr`; ADMIN one that may do everything. The service has the documents
// `for-all.md`, `for-hr.md` (for the group `hr`) and `for-it.md` (for the group `it`), each about a budget.

import { accessible, ANSWER_MS, Checks, commandLine, ensure, launch, shots, Watch } from "./support.mjs";

const { base, folder } = commandLine("signin.mjs");
const { ASKER, ADMIN } = process.env;
const checks = new Checks();
const watch = new Watch(base);
const browser = await launch();
// A page that is refused is told so in the console, too.
watch.errorsExpected = true;
const page = await watch.open(browser, "/", { viewport: { width: 1280, height: 900 } });

const dialog = page.getByRole("dialog");
async function signIn(key, { keep = false } = {}) {
  await dialog.getByLabel("Key").fill(key);
  if (keep) await dialog.getByRole("checkbox").check();
  await dialog.getByRole("button", { name: "Sign in" }).click();
}
const nav = (name) => page.getByRole("link", { name, exact: true });

await checks.check("who opens a page is asked for a key, and a wrong one is said to be wrong", async () => {
  await dialog.waitFor();
  await accessible(page, "the dialog to sign in");
  await shots(page, folder, "real-sign-in");
  await signIn("ak_0123456789abcdef_0000");
  await dialog.getByRole("alert").getByText(/./).waitFor();
  ensure(await dialog.isVisible(), "it lets in who brings a wrong key");
});

await checks.check("who may ask gets answers from what it sees, and no way to administer", async () => {
  await signIn(ASKER);
  await dialog.waitFor({ state: "detached" });
  await nav("Admin").waitFor({ state: "detached" });
  await page.getByRole("textbox").first().fill("What is the budget of each office?");
  await page.keyboard.press("Enter");
  await page.locator(".source").first().waitFor({ timeout: ANSWER_MS });
  const text = await page.locator("main").innerText();
  ensure(!text.includes("for-it") && !text.includes("machine room"), "it shows what is for others");
  await shots(page, folder, "signed-in");
});

await checks.check("its documents are those it sees, and it is told that it may not write", async () => {
  await nav("Documents").click();
  await page.locator("table.documents tbody tr").first().waitFor();
  const text = await page.locator("table.documents").innerText();
  ensure(text.includes("for-all.md") && text.includes("for-hr.md") && !text.includes("for-it.md"), text);
  ensure((await page.locator(".drop input[type=file]").count()) === 0, "it offers to upload");
  await accessible(page, "documents without the right to write");
  await shots(page, folder, "documents-read-only");
});

await checks.check("the admin page refuses it in words", async () => {
  await page.goto(`${base}/admin`);
  await page.getByText(/admin/i).first().waitFor();
  await page.getByText("may not do this").or(page.getByText("may not")).first().waitFor();
  await accessible(page, "the admin page without the right to it");
  await shots(page, folder, "admin-forbidden");
});

await checks.check("who may administer makes a key that works until it is revoked", async () => {
  await page.evaluate(() => sessionStorage.clear());
  await page.goto(`${base}/admin#keys`);
  await page.reload();
  await dialog.waitFor();
  await signIn(ADMIN);
  await page.getByRole("button", { name: "New key" }).click();
  await page.getByLabel("Name").fill("made on the page");
  await page.getByRole("button", { name: "Make the key" }).click();
  const made = page.locator("dialog", { hasText: "The key is made" });
  await made.waitFor();
  const key = await made.getByLabel("Key", { exact: true }).inputValue();
  await made.getByRole("button", { name: "Done" }).click();
  const me = async () => (await fetch(`${base}/v1/me`, { headers: { Authorization: `Bearer ${key}` } })).status;
  ensure((await me()) === 200, "the key does not work");
  await page.getByRole("button", { name: "Revoke made on the page" }).click();
  await page.locator("dialog").getByRole("button", { name: "Revoke", exact: true }).click();
  await page.locator("tr", { hasText: "made on the page" }).waitFor({ state: "detached" });
  ensure((await me()) === 401, "the key works on");
});

await checks.check("a key stays where it was to stay, and is gone after signing out", async () => {
  const other = await watch.open(browser, "/", { viewport: { width: 390, height: 844 } });
  const ask = other.getByRole("dialog");
  await ask.getByLabel("Key").fill(ASKER);
  await ask.getByRole("checkbox").check();
  await ask.getByRole("button", { name: "Sign in" }).click();
  await ask.waitFor({ state: "detached" });
  await other.reload();
  await other.getByRole("textbox").first().waitFor();
  ensure((await ask.count()) === 0, "it asks again");
  ensure(!other.url().includes("ak_"), "the key is in the address");
  await other.context().close();
});

await watch.atTheEnd(checks);
await browser.close();
checks.end();
