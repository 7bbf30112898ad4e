// Drives the documents page of a running answerd in Chromium, on the documents of data/sample.
//
//     npm ci && node documents.mjs http://127.0.0.1:8080 screenshots
//
// The first argument is the address of the service, the second a folder for screenshots. CHROMIUM names the
// browser where it is not in the PATH. Each check is for a promise of the page; the exit code is 1 if one is broken.
// COLLECTION is the collection of those documents, `sample` without it. What the checks upload they delete again. Where a check needs a certain answer (refusals, a service that has no
// room), the service's answer is replaced by a canned one.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { accessible, Checks, commandLine, ensure, launch, overflow, shots, Watch } from "./support.mjs";

/** The longest from an upload until it is searchable, on a small machine with other work. */
const SEARCHABLE_MS = 60_000;

const { base, folder } = commandLine("documents.mjs");
/** The collection of the documents of data/sample. */
const SAMPLE = process.env.COLLECTION ?? "sample";
const checks = new Checks();
const watch = new Watch(base);
const browser = await launch();
/** All that is uploaded has an id that begins with this, so that nothing else is touched. */
const run = `browser-test-${process.pid}`;
const files = mkdtempSync(join(tmpdir(), "answerd-documents-"));

function file(name, content) {
  const path = join(files, name);
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(path, content);
  return path;
}

const page = await watch.open(browser, "/documents", { viewport: { width: 1280, height: 900 } }).catch(async (error) => {
  console.error(`the page at ${base} cannot be opened, is answerd running there? ${error.message.split("\n")[0]}`);
  await browser.close();
  process.exit(1);
});

const filesInput = (on = page) => on.locator(".drop input[type=file]").first();
const folderInput = (on = page) => on.locator(".drop input[type=file]").last();
const upload = (name, on = page) => on.locator(".upload", { hasText: name });
const row = (id, on = page) => on.locator("table.documents tbody tr", { has: on.getByRole("checkbox", { name: `Select ${id}`, exact: true }) });
const state = (name, stage, on = page, timeout = SEARCHABLE_MS) => on.locator(`.upload.${stage}`, { hasText: name }).waitFor({ timeout });

/** Opens what says where uploads go, and fills it in. */
async function into(on, { collection, groups, prefix }) {
  const toggle = on.locator(".options-toggle");
  if ((await toggle.getAttribute("aria-expanded")) === "false") await toggle.click();
  if (collection !== undefined) await on.getByLabel("Collection", { exact: true }).first().fill(collection);
  if (groups !== undefined) await on.getByLabel("Who may see them").fill(groups);
  if (prefix !== undefined) await on.getByLabel("Ids begin with").fill(prefix);
}

async function menu(id, item, on = page) {
  await on.getByRole("button", { name: `Actions for ${id}`, exact: true }).click();
  await on.locator(".menu-item:visible", { hasText: item }).click();
}

async function search(words, on = page) {
  await on.getByRole("searchbox", { name: "Search in the documents" }).fill(words);
  await on.getByRole("searchbox", { name: "Search in the documents" }).press("Enter");
  await on.locator(".results[aria-busy=false]").waitFor();
  return on.locator(".result").allTextContents();
}

const toList = (on = page) => on.getByRole("button", { name: "Back to the list" }).click();

/** What the service itself says of a document. */
async function served(id) {
  const response = await fetch(`${base}/v1/documents/${id.split("/").map(encodeURIComponent).join("/")}`);
  return response.status === 404 ? null : response.json();
}

/** Deletes what was uploaded. */
async function removeAll(which) {
  const list = await fetch(`${base}/v1/documents?limit=1000&prefix=${run}/`);
  const left = (await list.json()).documents.map(({ id }) => id).filter(which);
  const some = async () => {
    for (let id = left.shift(); id !== undefined; id = left.shift()) await fetch(`${base}/v1/documents/${id.split("/").map(encodeURIComponent).join("/")}?wait=true`, { method: "DELETE" });
  };
  await Promise.all([some(), some(), some(), some()]);
}

await into(page, { prefix: run, collection: "browser-test" });

await checks.check("the documents are listed with status, format, passages and who sees them", async () => {
  await row("people/handbook.md").waitFor();
  const text = await row("people/handbook.md").innerText();
  for (const part of ["Employee handbook", SAMPLE, "Searchable", "markdown", "Everybody"]) ensure(text.includes(part), `${part} is not in ${JSON.stringify(text)}`);
  const count = await page.locator(".page-head .muted").textContent();
  ensure(/^\d+ documents in \d+ collections?$/.test(count), `the count says ${JSON.stringify(count)}`);
  await accessible(page, "the list");
});

await checks.check("a file that is chosen is uploaded, and followed until it is searchable", async () => {
  const stages = await page.evaluateHandle(() => {
    const seen = new Set();
    new MutationObserver(() => document.querySelectorAll(".upload").forEach((one) => seen.add(one.className.replace("upload ", "")))).observe(document.body, { subtree: true, childList: true, attributes: true });
    return seen;
  });
  await filesInput().setInputFiles(file("quagga.md", `# The quagga\n\n${"The quagga was a zebra of the Karoo, striped only in front. ".repeat(300)}`));
  await state("quagga.md", "visible");
  const seen = await stages.evaluate((set) => [...set]);
  ensure(seen.some((stage) => ["sending", "received", "parsed", "embedded"].includes(stage)), `only ${seen} was shown on the way`);
  await row(`${run}/quagga.md`).waitFor();
  const found = await search("quagga striped only in front");
  ensure(found[0]?.includes("The quagga"), `the first passage found is ${JSON.stringify(found[0])}`);
  await toList();
});

await checks.check("a folder is uploaded with its folders, and what systems leave in it is not", async () => {
  for (const name of ["okapi/one.md", "okapi/deep/er/two.md", "okapi/.DS_Store"]) file(name, `# ${name}\n\nThe okapi lives in the Ituri forest.`);
  await folderInput().setInputFiles(join(files, "okapi"));
  await state("okapi/one.md", "visible");
  await state("okapi/deep/er/two.md", "visible");
  ensure((await upload(".DS_Store").count()) === 0, "a file of the system was uploaded");
  ensure((await served(`${run}/okapi/deep/er/two.md`))?.status === "visible", "the service does not serve it");
});

await checks.check("what is dropped on the page is uploaded, and the page says that it can be", async () => {
  const data = await page.evaluateHandle(() => {
    const data = new DataTransfer();
    data.items.add(new File(["# Dropped\n\nThe numbat eats termites."], "numbat.md", { type: "text/markdown" }));
    return data;
  });
  await page.dispatchEvent("main", "dragenter", { dataTransfer: data });
  await page.locator(".veil", { hasText: "Drop to upload" }).waitFor();
  await page.dispatchEvent("main", "drop", { dataTransfer: data });
  await page.locator(".veil").waitFor({ state: "hidden" });
  await state("numbat.md", "visible");
});

await checks.check("a document that cannot be read is failed, with the reason, here and in the list", async () => {
  await filesInput().setInputFiles(file("picture.png", Buffer.from("89504e470d0a1a0a0000000d4948445200000001", "hex")));
  await state("picture.png", "failed");
  ensure(/PNG/.test(await upload("picture.png").first().innerText()), "the upload does not say why");
  await row(`${run}/picture.png`).waitFor();
  const text = await row(`${run}/picture.png`).innerText();
  ensure(text.includes("Failed") && /PNG/.test(text), `the list says ${JSON.stringify(text)}`);
  await accessible(page, "a failed upload");
  await shots(page, folder, "documents-uploads");
});

await checks.check("an empty file is refused, with the reason", async () => {
  await filesInput().setInputFiles(file("empty.md", ""));
  await state("empty.md", "failed");
  ensure(/empty/.test(await upload("empty.md").first().innerText()), "the upload does not say why");
});

await checks.check("a document is replaced, and the new content is found", async () => {
  const chooser = page.waitForEvent("filechooser");
  await menu(`${run}/quagga.md`, "Replace");
  await (await chooser).setFiles(file("other-name.md", "# The quagga, again\n\nThe last wild quagga was shot in eighteen seventy-eight."));
  await state("quagga.md", "visible");
  await page.waitForFunction((id) => [...document.querySelectorAll("table.documents tr")].some((row) => row.innerText.includes(id) && row.innerText.includes("again")), `${run}/quagga.md`);
  const found = await search("last wild quagga shot");
  ensure(found[0]?.includes("eighteen seventy-eight"), `the first passage found is ${JSON.stringify(found[0])}`);
  ensure(!found.some((text) => text.includes("striped only in front")), "the old content is still found");
  await toList();
});

await checks.check("a result opens its document with the passage highlighted", async () => {
  await search("How much is a hotel in a capital city?");
  await accessible(page, "search results");
  await shots(page, folder, "documents-search");
  await page.locator(".result .link").first().click();
  await page.locator("dialog.passage mark").first().waitFor();
  ensure((await page.locator("dialog.passage").innerText()).includes("€190"), "the passage is not in the text");
  await page.keyboard.press("Escape");
  await page.locator("dialog.passage").waitFor({ state: "detached" });
  await toList();
});

await checks.check("the list is filtered by collection and by the beginning of ids, and the address keeps it", async () => {
  await page.getByLabel("Id begins with").fill(`${run}/okapi/`);
  await page.waitForFunction(() => document.querySelectorAll("table.documents tbody tr").length === 2);
  await page.getByLabel("Collection", { exact: true }).last().selectOption(SAMPLE);
  await page.getByText("No document matches the filter.").waitFor();
  await accessible(page, "an empty filter");
  await page.getByRole("button", { name: "Clear the filter" }).click();
  await page.getByLabel("Collection", { exact: true }).last().selectOption(SAMPLE);
  await row("people/handbook.md").waitFor();
  ensure(new URL(page.url()).searchParams.get("collection") === SAMPLE, `the address is ${page.url()}`);
  const again = await watch.open(browser, `/documents${new URL(page.url()).search}`, { viewport: { width: 1280, height: 900 } });
  await row("people/handbook.md", again).waitFor();
  ensure((await row(`${run}/numbat.md`, again).count()) === 0, "after a reload the filter is gone");
  await again.context().close();
  await page.getByLabel("Collection", { exact: true }).last().selectOption("");
});

await checks.check("a long list comes page by page", async () => {
  const small = await watch.open(browser, "/documents", { viewport: { width: 1280, height: 900 } });
  await small.route("**/v1/documents?*", (route) => {
    const url = new URL(route.request().url());
    url.searchParams.set("limit", "4");
    return route.continue({ url: url.href });
  });
  await small.reload();
  const rows = small.locator("table.documents tbody tr");
  await rows.first().waitFor();
  const before = await rows.count();
  ensure(before === 4, `${before} documents are shown of a page of 4`);
  await small.getByRole("button", { name: "Show more" }).click();
  await small.waitForFunction((count) => document.querySelectorAll("table.documents tbody tr").length > count, before);
  const ids = await small.getByRole("checkbox", { name: /^Select (?!all)/ }).evaluateAll((boxes) => boxes.map((box) => box.getAttribute("aria-label")));
  ensure(ids.length === new Set(ids).size, "a document is listed twice");
  await small.context().close();
});

await checks.check("who may see a document is said on upload, and shown", async () => {
  await into(page, { groups: "hr, eng" });
  const sent = page.waitForRequest((request) => request.method() === "PUT");
  await filesInput().setInputFiles(file("secret.md", "# Salaries\n\nThey are what they are."));
  ensure(new URL((await sent).url()).searchParams.get("visible_to") === "hr,eng", `the upload went to ${(await sent).url()}`);
  await state("secret.md", "visible");
  await row(`${run}/secret.md`).waitFor();
  const text = await row(`${run}/secret.md`).innerText();
  ensure(text.includes("hr") && text.includes("eng") && !text.includes("Everybody"), `the list says ${JSON.stringify(text)}`);
  await into(page, { groups: "" });
});

await checks.check("an upload can be cancelled and tried again", async () => {
  let release;
  const held = new Promise((resolve) => (release = resolve));
  await page.route("**/v1/documents/**", async (route) => {
    if (route.request().method() === "PUT") await held;
    await route.continue().catch(() => {});
  });
  await filesInput().setInputFiles(file("later.md", "# Later\n\nThe kakapo cannot fly."));
  await state("later.md", "sending");
  await page.getByRole("button", { name: `Cancel ${run}/later.md` }).click();
  await state("later.md", "cancelled");
  // The page says it at once, and the browser's network a moment later: what is let go before would go out all the same.
  await page.waitForTimeout(1000);
  release();
  await page.unroute("**/v1/documents/**");
  ensure((await served(`${run}/later.md`)) === null, "what was cancelled is there");
  await page.getByRole("button", { name: `Try ${run}/later.md again` }).click();
  await state("later.md", "visible");
});

await checks.check("a service that has no room is asked again after the time that it says", async () => {
  watch.errorsExpected = true;
  const body = JSON.stringify({ type: "urn:answerd:problem:overloaded", title: "Too many requests are being worked on", status: 429, detail: "No room." });
  await page.route("**/v1/documents/**", (route) => route.fulfill({ status: 429, contentType: "application/problem+json", headers: { "Retry-After": "1" }, body }), { times: 1 });
  await filesInput().setInputFiles(file("patient.md", "# Patience\n\nThe tuatara takes its time."));
  await upload("patient.md").getByText("sent again in 1 second").waitFor();
  await state("patient.md", "visible");
  watch.errorsExpected = false;
});

await checks.check("a lost connection fails an upload, and Retry failed sends it", async () => {
  watch.errorsExpected = true;
  await page.route("**/v1/documents/**", (route) => route.abort(), { times: 1 });
  await filesInput().setInputFiles(file("cut.md", "# Cut\n\nThe axolotl grows again."));
  await state("cut.md", "failed");
  await page.getByRole("button", { name: `Try ${run}/cut.md again` }).click();
  await state("cut.md", "visible");
  watch.errorsExpected = false;
});

await checks.check("two hundred files go out a few at a time, and all become searchable", async () => {
  let open = 0;
  let most = 0;
  const onRequest = (request) => request.method() === "PUT" && (most = Math.max(most, ++open));
  const onEnd = (request) => request.method() === "PUT" && open--;
  page.on("request", onRequest).on("requestfinished", onEnd).on("requestfailed", onEnd);
  await page.evaluate(() => {
    window.longest = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => (window.longest = Math.max(window.longest, entry.duration)))).observe({ type: "longtask" });
  });
  const began = Date.now();
  await page.getByRole("button", { name: "Clear finished" }).click();
  await filesInput().setInputFiles([file("many/broken.png", Buffer.from("89504e470d0a1a0a0000000d4948445200000001", "hex"))]);
  await filesInput().setInputFiles(Array.from({ length: 200 }, (_, n) => file(`many/${n}.md`, `# Number ${n}\n\nA short text about the number ${n}.`)));
  await page.locator(".uploads header", { hasText: "200 done, 1 failed" }).waitFor({ timeout: 4 * SEARCHABLE_MS });
  ensure((await page.locator(".upload").first().innerText()).includes("broken.png"), "what failed does not stand first");
  checks.figure("200 files uploaded and searchable after", `${((Date.now() - began) / 1000).toFixed(1)} s`);
  checks.figure("longest task meanwhile", `${Math.round(await page.evaluate(() => window.longest))} ms`);
  page.off("request", onRequest).off("requestfinished", onEnd).off("requestfailed", onEnd);
  // One that is over is told of a little later than the one that follows it.
  ensure(most >= 2 && most <= 4, `${most} uploads were under way at once`);
  await removeAll((id) => /\/\d+\.md$/.test(id));
});

await checks.check("finished uploads are cleared from the list", async () => {
  await page.getByRole("button", { name: "Clear finished" }).click();
  await page.locator(".uploads").waitFor({ state: "detached" });
});

await checks.check("names and contents full of script, event handlers and odd characters execute nothing", async () => {
  const names = ["<img src=x onerror=alert(1)>.md", "a\u202etxt.md", "javascript:alert(1).md", "{{constructor.constructor('alert(1)')()}}.md", "' onmouseover='alert(1).md", "&lt;b&gt;.md", "日本語 🦄.md"];
  const content = `# <script>alert(1)</script> <img src=x onerror=alert(1)>

[click](javascript:alert(1)) ![x](https://example.com/leak.png) <svg onload=alert(1)>
<iframe srcdoc="<script>alert(1)</script>"></iframe> wombatword
`;
  await filesInput().setInputFiles(names.map((name) => ({ name, mimeType: "text/markdown", buffer: Buffer.from(content) })));
  for (const name of names) await state(name, "visible");
  await page.getByLabel("Id begins with").fill(run);
  for (const name of names) {
    await row(`${run}/${name}`).waitFor();
    await row(`${run}/${name}`).locator(".link").hover();
  }
  ensure((await page.locator("main img, main iframe, main svg[onload], main script").count()) === 0, "something of a document became an element");
  await search("wombatword");
  await page.locator(".result .link").first().hover();
  await page.locator(".result .link").first().click();
  await page.locator("dialog.passage .passage-text").waitFor();
  ensure((await page.locator("dialog.passage .passage-text").innerText()).includes("<svg onload=alert(1)>"), "the text is not shown as it is");
  ensure((await page.locator("dialog.passage img, dialog.passage iframe, dialog.passage script").count()) === 0, "something of a document became an element");
  await page.keyboard.press("Escape");
  await toList();
  ensure(watch.dialogs.length === 0, `a script ran: ${watch.dialogs}`);
});

await checks.check("a document is deleted after a question, and shown until it is gone", async () => {
  await page.getByLabel("Id begins with").fill(`${run}/numbat`);
  await page.waitForFunction(() => document.querySelectorAll("table.documents tbody tr").length === 1);
  await menu(`${run}/numbat.md`, "Delete");
  await page.locator("dialog", { hasText: "Delete the document?" }).waitFor();
  await accessible(page, "the question before a deletion");
  await shots(page, folder, "documents-delete");
  await page.keyboard.press("Escape");
  ensure((await served(`${run}/numbat.md`)) !== null, "it was deleted though the question was not answered");
  await menu(`${run}/numbat.md`, "Delete");
  await page.locator("dialog").getByRole("button", { name: "Delete", exact: true }).click();
  await page.getByText("1 document is gone.").waitFor();
  ensure((await served(`${run}/numbat.md`)) === null, "the page says that it is gone, and the service has it");
  const found = await search("numbat eats termites");
  ensure(!found.some((text) => text.includes("numbat eats")), "it is still found");
  await toList();
});

await checks.check("many documents are selected and deleted at once", async () => {
  await page.getByLabel("Id begins with").fill(`${run}/okapi/`);
  await page.waitForFunction(() => document.querySelectorAll("table.documents tbody tr").length === 2);
  await page.getByRole("checkbox", { name: "Select all that are shown" }).check();
  await page.getByText("2 documents selected").waitFor();
  await page.locator(".selection").getByRole("button", { name: "Delete" }).click();
  await page.locator("dialog").getByRole("button", { name: "Delete", exact: true }).click();
  await page.getByText("2 documents are gone.").waitFor();
  for (const id of ["okapi/one.md", "okapi/deep/er/two.md"]) ensure((await served(`${run}/${id}`)) === null, `${id} is still there`);
});

await checks.check("the page works by keyboard alone", async () => {
  await page.getByLabel("Id begins with").fill("people/");
  await page.waitForFunction(() => document.querySelectorAll("table.documents tbody tr").length === 4);
  await page.getByRole("button", { name: "Actions for people/travel.md" }).focus();
  await page.keyboard.press("Enter");
  await page.locator(".menu-item:visible").first().waitFor();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Enter");
  await page.locator("dialog.passage .passage-text").waitFor();
  await page.keyboard.press("Escape");
  await page.locator("dialog.passage").waitFor({ state: "detached" });
  await page.getByLabel("Id begins with").fill("");
});

// ---------------------------------------------------------------- states, on canned answers

watch.errorsExpected = true;

/** The page as it is where the list is answered so. */
async function withList(response, viewport = { width: 1280, height: 900 }) {
  const other = await watch.open(browser, "/documents", { viewport });
  await other.route(/\/v1\/documents(\?|$)/, (route) => (typeof response === "function" ? response(route) : route.fulfill(response)));
  await other.reload();
  return other;
}

await checks.check("an empty service says what to do", async () => {
  const empty = await withList({ json: { documents: [], next: null } });
  await empty.getByText("There are no documents yet.").waitFor();
  await accessible(empty, "the empty list");
  await shots(empty, folder, "documents-empty");
  await empty.context().close();
});

await checks.check("while the list is loading there is something in its place", async () => {
  const loading = await withList(() => {});
  await loading.locator(".waiting .skeleton").first().waitFor();
  await accessible(loading, "the list while it loads");
  await shots(loading, folder, "documents-loading");
  await loading.context().close();
});

await checks.check("a service that cannot be reached is said, and asked again", async () => {
  let times = 0;
  const lost = await withList((route) => (times++ === 0 ? route.abort() : route.continue()));
  await lost.getByText("The service cannot be reached").waitFor();
  await accessible(lost, "the list without a connection");
  await shots(lost, folder, "documents-lost");
  await lost.getByRole("button", { name: "Try again" }).click();
  await row("people/handbook.md", lost).waitFor();
  await lost.context().close();
});

await checks.check("who may not read documents is told so", async () => {
  const body = JSON.stringify({ type: "urn:answerd:problem:forbidden", title: "Forbidden", status: 403, detail: "the key lacks the scope `ask`" });
  const forbidden = await withList({ status: 403, contentType: "application/problem+json", body });
  await forbidden.getByText("You may not see the documents").waitFor();
  await accessible(forbidden, "the forbidden list");
  await shots(forbidden, folder, "documents-forbidden");
  await forbidden.context().close();
});

await checks.check("who may only read is offered nothing else", async () => {
  const reader = await watch.open(browser, "/documents", { viewport: { width: 1280, height: 900 } });
  await reader.route("**/v1/me", (route) => route.fulfill({ json: { identity: true, name: "user:reader", scopes: ["ask"], groups: [], sees_all: false } }));
  await reader.reload();
  await reader.getByText("You may read the documents, not change them.").waitFor();
  await reader.locator("table.documents tbody tr").first().waitFor();
  ensure((await reader.locator("input[type=checkbox], .drop").count()) === 0, "there is something to upload or select with");
  await reader.getByRole("button", { name: "Actions for people/handbook.md" }).click();
  ensure((await reader.locator(".menu-item:visible", { hasText: /Delete|Replace/ }).count()) === 0, "there is a way to delete or replace");
  await reader.context().close();
});
watch.errorsExpected = false;

await checks.check("a phone shows all of it without scrolling sideways", async () => {
  const phone = await watch.open(browser, "/documents", { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, colorScheme: "dark" });
  await phone.locator("table.documents tbody tr").first().waitFor();
  await into(phone, { prefix: run });
  await filesInput(phone).setInputFiles(file(`${"long".repeat(50)}.md`, "# Long\n\nA long name."));
  await state("long", "visible", phone);
  ensure((await overflow(phone)) <= 0, "the list is too wide");
  const small = await phone.locator("main button:visible, main select:visible").evaluateAll((all) => all.filter((one) => one.getBoundingClientRect().height < 44 && !one.classList.contains("link")).map((one) => one.textContent || one.getAttribute("aria-label")));
  ensure(small.length === 0, `too small for a finger: ${small}`);
  await accessible(phone, "the list on a phone");
  await search("hotel", phone);
  ensure((await overflow(phone)) <= 0, "the results are too wide");
  await phone.context().close();
});

await shots(page, folder, "documents-list");

// What was uploaded is taken away again, also where checks failed.
await removeAll(() => true);
rmSync(files, { recursive: true });

// Browsers log every refusal: that of an empty file, and that a deleted document is there no more.
watch.consoleErrors = watch.consoleErrors.filter((text) => !/status of (404|422).*\/v1\/documents\//.test(text));
await watch.atTheEnd(checks);
await browser.close();
checks.end();
