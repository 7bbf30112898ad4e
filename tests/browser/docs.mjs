// Drives the API reference of an answerd that asks who calls, in Chromium, as somebody who is not known.
//
//     npm ci && node docs.mjs http://127.0.0.1:8080 screenshots

import { accessible, Checks, commandLine, ensure, launch, overflow, shots, Watch } from "./support.mjs";

const { base, folder } = commandLine("docs.mjs");
const checks = new Checks();
const watch = new Watch(base);
const browser = await launch();
// That nobody is known is told in the console, too.
watch.errorsExpected = true;
const page = await watch.open(browser, "/docs", { viewport: { width: 1440, height: 900 } });
const reference = await (await fetch(`${base}/openapi.json`)).json();
const operations = Object.values(reference.paths).flatMap((item) => Object.values(item));
const card = (id) => page.locator(`#${id}`);

await checks.check("every address is on the page, and nobody is asked for a key", async () => {
  await page.locator("details.operation").first().waitFor();
  ensure((await page.locator("details.operation").count()) === operations.length, "an address is missing");
  for (const { operationId, summary } of operations) ensure((await card(operationId).locator("summary h3").innerText()).includes(summary), operationId);
  ensure((await page.getByRole("dialog").count()) === 0, "it asks for a key");
  await accessible(page, "the list of addresses");
  await shots(page, folder, "reference");
});

await checks.check("what holds for every address can be read, with every kind of problem", async () => {
  await page.locator(".introduction > summary").click();
  const text = await page.locator(".introduction .answer").innerText();
  for (const part of ["not-yet-visible", "storage-full", "Retry-After", "min_seq"]) ensure(text.includes(part), part);
  await accessible(page, "the introduction");
  await shots(page, folder, "reference-introduction");
  await page.locator(".introduction > summary").click();
});

await checks.check("an address says what it takes and gives, and how to call it", async () => {
  await card("ask").locator("summary").first().click();
  const body = card("ask").locator(".body");
  await body.getByText("curl").first().waitFor();
  for (const part of ["question", "temperature", "Cache-Control", "scope ask", base]) ensure((await body.innerText()).includes(part), part);
  await body.getByRole("button", { name: "text/event-stream" }).click();
  await body.locator(".folded > summary", { hasText: "Each event" }).click();
  ensure((await body.innerText()).includes("token"), "it has no events");
  await accessible(page, "an address that is open");
  await shots(page, folder, "reference-open");
});

await checks.check("every address can be opened, with all that is folded in it", async () => {
  const open = (what) => page.locator(what).evaluateAll((nodes) => nodes.forEach((node) => (node.open = true)));
  await open("details.operation");
  for (const { operationId } of operations) await card(operationId).locator(".body").waitFor();
  // What is opened may have more that is folded; a filter has filters in it, without an end.
  for (let depth = 0; depth < 4; depth++) {
    await open("details.operation details");
    await page.waitForTimeout(20);
  }
  await accessible(page, "everything that is open");
  const ids = await page.locator("[id]").evaluateAll((nodes) => nodes.map((node) => node.id));
  ensure(new Set(ids).size === ids.length, `an id is there twice: ${ids.filter((id, n) => ids.indexOf(id) !== n)}`);
  await page.setViewportSize({ width: 390, height: 844 });
  ensure((await overflow(page)) <= 0, "it is wider than a phone");
  await page.setViewportSize({ width: 1440, height: 900 });
});

await checks.check("a word finds the addresses that have it", async () => {
  await page.getByRole("searchbox").fill("collections");
  await card("ask").waitFor({ state: "detached" });
  ensure(await card("listCollections").isVisible(), "it does not find what there is");
  await page.getByRole("searchbox").fill("nothing-has-this");
  await page.getByText("No address has all of these words").waitFor();
  await shots(page, folder, "reference-none");
  await page.getByRole("button", { name: "Show all" }).click();
  await card("ask").waitFor();
});

await checks.check("a link to an address leads to it", async () => {
  const other = await watch.open(browser, "/docs#putDocument", { viewport: { width: 390, height: 844 } });
  await other.locator("#putDocument .body").waitFor();
  await other.waitForTimeout(200);
  const top = await other.locator("#putDocument").evaluate((node) => node.getBoundingClientRect().top);
  ensure(top > 0 && top < 400, `it is at ${top}`);
  await shots(other, folder, "reference-link");
});

await watch.atTheEnd(checks);
await browser.close();
checks.end();
