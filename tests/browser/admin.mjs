// Drives the admin page of a running answerd in Chromium.
//
//     npm ci && node admin.mjs http://127.0.0.1:8080 screenshots
//
// The first argument is the address of the service, the second a folder for screenshots. CHROMIUM names the
// browser where it is not in the PATH. Each check is for a promise of the page; the exit code is 1 if one is broken.
//
// EXPECT_PANIC=read/retriever says that this actor panics at the next search (the service was started with such a
// failpoint): then the page must show it, and that the actor comes back.
//
// ANSWERD_KEY is the key to sign in with, one that may do everything, where the service asks who calls. Keys are only
// checked then: without identity there are none.
//
// Where a check needs what a small service does not have (hours of figures, a thousand sequences, dead letters),
// a proxy answers in the service's place.

import { accessible, Checks, commandLine, ensure, launch, overflow, shots, startProxy, Watch } from "./support.mjs";

const { base, folder } = commandLine("admin.mjs");
const checks = new Checks();

/** The answers of the proxy, by path; what is not here is answered by the service. */
const answers = new Map();
const proxy = await startProxy(base, [
  (request, response, body) => {
    const path = new URL(request.url, base).pathname;
    const answer = answers.get(`${request.method} ${path}`) ?? answers.get(path);
    if (!answer) return false;
    answer(request, response, body);
    return true;
  },
]);
const json = (value, status = 200) => (_, response) => {
  response.writeHead(status, { "Content-Type": status >= 400 ? "application/problem+json" : "application/json" });
  response.end(JSON.stringify(value));
};
const nothing = (status) => (_, response) => response.writeHead(status).end();

const watch = new Watch(proxy.origin);
const browser = await launch();
const desktop = { viewport: { width: 1440, height: 900 } };
const page = await watch.open(browser, "/admin", desktop).catch(async (error) => {
  console.error(`the page at ${base} cannot be opened, is answerd running there? ${error.message.split("\n")[0]}`);
  await browser.close();
  process.exit(1);
});

const SECTIONS = ["Overview", "Actors", "Models", "Sources & sinks", "Dead letters", "Timeline", "Keys", "Configuration"];
const to = async (section, on = page) => {
  const link = on.locator(".sections").getByRole("link", { name: section });
  await link.click();
  await on.locator(".sections a[aria-current]", { hasText: section }).waitFor();
};
const live = (on = page, timeout = 15_000) => on.locator(".connection.live").waitFor({ timeout });
const tile = (name) => page.locator(".tile", { hasText: name }).locator("dd").innerText();
const actorRow = (path, on = page) => on.locator("tr", { has: on.getByRole("button", { name: `Details of ${path}`, exact: true }) });
const auth = watch.key === null ? {} : { Authorization: `Bearer ${watch.key}` };
const asked = async (path) => (await fetch(base + path, { headers: auth })).json();
const status = () => asked("/admin/status");
const search = () => fetch(`${base}/v1/search`, { method: "POST", headers: { "Content-Type": "application/json", ...auth }, body: JSON.stringify({ query: `hotel ${Math.random()}` }) });

/** All actors of a tree, by their path. */
function actorsOf(nodes, above = "") {
  return nodes.flatMap((node) => {
    const path = above === "" ? node.part : `${above}/${node.part}`;
    return [...(node.state ? [{ ...node, path }] : []), ...actorsOf(node.children ?? [], path)];
  });
}

// ---------------------------------------------------------------- on the real service

await checks.check("the strip says what the service says of itself, live", async () => {
  await live();
  const now = await status();
  ensure((await tile("Documents")).startsWith(String(now.catalog.documents)), `it shows ${await tile("Documents")} documents, there are ${now.catalog.documents}`);
  ensure((await tile("Passages")) === now.catalog.chunks.toLocaleString("en"), `it shows ${await tile("Passages")} passages, there are ${now.catalog.chunks}`);
  ensure(/\d+ (MiB|GiB)/.test(await tile("Memory")), `the memory is ${await tile("Memory")}`);
  ensure(/[\d.]+\s+of \d+ cores?/.test(await tile("Processor")), `the processor is ${JSON.stringify(await tile("Processor"))}`);
  ensure((await page.locator(".page-head").innerText()).includes(now.version), "the version is not shown");
});

await checks.check("every section can be reached, has an address of its own, and axe finds nothing serious in it", async () => {
  for (const section of SECTIONS) {
    await to(section);
    await page.locator(".section > *").first().waitFor();
    await page.locator(".section .waiting").waitFor({ state: "detached" });
    await accessible(page, section);
    ensure((await overflow(page)) <= 0, `${section} is too wide`);
    const name = section.toLowerCase().replace(/\W+/g, "-");
    await shots(page, folder, `admin-${name}`);
  }
  const { hash } = new URL(page.url());
  await page.reload();
  await page.locator(".sections a[aria-current]", { hasText: "Configuration" }).waitFor();
  ensure(new URL(page.url()).hash === hash, "a reload leads elsewhere");
});

await checks.check("the sections are reached by keyboard", async () => {
  await page.locator(".sections a").first().focus();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.locator(".sections a[aria-current]", { hasText: "Actors" }).waitFor();
});

await checks.check("the tree has every actor, with state, depth and capacity", async () => {
  await to("Actors");
  const actors = actorsOf((await status()).actors);
  await actorRow(actors[0].path).waitFor();
  for (const actor of actors) {
    const text = await actorRow(actor.path).innerText();
    ensure(text.includes("Running"), `${actor.path}: ${JSON.stringify(text)}`);
    ensure(text.includes(`/ ${actor.capacity.toLocaleString("en")}`), `${actor.path} shows no capacity of ${actor.capacity}: ${JSON.stringify(text)}`);
  }
});

await checks.check("the tree is live: what an actor does is counted while one looks", async () => {
  await to("Actors");
  await page.getByRole("button", { name: "Details of read/retriever" }).click();
  const answered = async () => Number(/Answered\s+([\d,]+)/.exec(await page.locator("tr.details").innerText())?.[1].replace(",", ""));
  const before = await answered();
  for (let n = 0; n < 5; n++) await search();
  await page.waitForFunction((least) => Number(/Answered\s+([\d,]+)/.exec(document.querySelector("tr.details").innerText)?.[1].replace(",", "")) >= least, before + 5, { timeout: 10_000 });
  await page.waitForFunction(() => /[1-9]/.test([...document.querySelectorAll("tr")].find((row) => row.innerText.startsWith("retriever"))?.cells[3].innerText ?? ""), null, { timeout: 10_000 });
  await accessible(page, "an actor's details");
  await page.getByRole("button", { name: "Details of read/retriever" }).click();
});

await checks.check("a part is folded and unfolded, and an actor is found by its name", async () => {
  await page.getByRole("button", { name: "Parts of write", exact: true }).click();
  await actorRow("write/indexer").waitFor({ state: "detached" });
  await actorRow("read/retriever").waitFor();
  await page.getByRole("button", { name: "Parts of write", exact: true }).click();
  await page.getByRole("searchbox", { name: "Find an actor" }).fill("index");
  await actorRow("write/indexer").waitFor();
  ensure((await page.locator("table.actors tbody tr").count()) === 1, "others are shown as well");
  await page.getByRole("searchbox", { name: "Find an actor" }).fill("");
});

await checks.check("models are shown with their workers, sequences and context", async () => {
  await to("Models");
  const text = await page.locator(".worker").first().innerText();
  for (const part of ["Ready", "Sequences", "Context", "running", "tokens", "Parked", "Waiting"]) ensure(text.includes(part), `${part} is not in ${JSON.stringify(text)}`);
});

await checks.check("sources and sinks are shown with whether they work", async () => {
  await to("Sources & sinks");
  for (const name of ["NATS", "Redis", "Store"]) {
    const text = await page.locator(".link-card", { hasText: name }).first().innerText();
    ensure(/Works|Trouble|Not configured/.test(text), `${name}: ${JSON.stringify(text)}`);
  }
});

await checks.check("figures are drawn as they come", async () => {
  await to("Overview");
  const charts = page.locator(".chart");
  ensure((await charts.count()) === 9, `there are ${await charts.count()} charts`);
  // A sample comes every five seconds.
  await page.waitForFunction(() => /\d/.test([...document.querySelectorAll(".chart")].find((chart) => chart.innerText.startsWith("Memory"))?.querySelector(".legend b").innerText ?? ""), null, { timeout: 15_000 });
});

await checks.check("the configuration is shown, secrets hidden, and searched", async () => {
  await to("Configuration");
  const config = await asked("/admin/config");
  await page.locator(".settings h2").first().waitFor();
  const sections = await page.locator(".settings h2").allInnerTexts();
  for (const [name, value] of Object.entries(config)) {
    if (value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length > 0) ensure(sections.some((section) => section === `[${name}]` || section.startsWith(`[${name}.`)), `[${name}] is not among ${sections}`);
  }
  await page.getByRole("searchbox", { name: "Find a setting" }).fill("server bind");
  await page.waitForFunction(() => document.querySelectorAll(".settings dt").length === 1);
  ensure((await page.locator(".settings dd").innerText()) === config.server.bind, "the value is another");
});

if (watch.key !== null) await checks.check("a key is made, shown once, listed with what it may do, and revoked", async () => {
  await to("Keys");
  const name = `test key ${process.pid}`;
  await page.getByRole("button", { name: "New key" }).click();
  await page.getByRole("button", { name: "Make the key" }).click();
  await page.getByText("Give it a name").waitFor();
  await accessible(page, "the dialog for a new key");
  await shots(page, folder, "admin-new-key");
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Write").check();
  await page.getByLabel("Groups", { exact: true }).fill("hr, eng");
  await page.getByLabel("Expires").selectOption("30");
  const request = page.waitForRequest((one) => one.method() === "POST" && one.url().endsWith("/admin/keys"));
  await page.getByRole("button", { name: "Make the key" }).click();
  const sent = (await request).postDataJSON();
  ensure(JSON.stringify([sent.name, sent.scopes, sent.groups, sent.sees_all]) === JSON.stringify([name, ["ask", "write"], ["hr", "eng"], false]), `it was asked for with ${JSON.stringify(sent)}`);
  ensure(Math.abs(sent.expires_ms - Date.now() - 30 * 86_400_000) < 60_000, "it does not expire in 30 days");
  const dialog = page.locator("dialog", { hasText: "The key is made" });
  await dialog.waitFor();
  const key = await dialog.getByLabel("Key", { exact: true }).inputValue();
  ensure(key.length >= 20, `the key is ${JSON.stringify(key)}`);
  await accessible(page, "the dialog with a key");
  await dialog.getByRole("button", { name: "Done" }).click();
  const row = page.locator("tr", { hasText: name });
  const text = await row.innerText();
  for (const part of ["Ask", "Write", "hr", "eng", "Active"]) ensure(text.includes(part), `${part} is not in ${JSON.stringify(text)}`);
  ensure(!(await page.content()).includes(key), "the key is still on the page");
  await page.reload();
  await row.waitFor();
  ensure(!(await page.content()).includes(key), "the key comes back after a reload");
  await page.getByRole("button", { name: `Revoke ${name}` }).click();
  await page.locator("dialog").getByRole("button", { name: "Revoke", exact: true }).click();
  await row.waitFor({ state: "detached" });
  await page.getByLabel(/^Show \d+ revoked/).check();
  ensure((await row.innerText()).includes("Revoked"), "it is not among the revoked");
  const { keys } = await asked("/admin/keys");
  ensure(keys.find((one) => one.name === name)?.revoked_ms > 0, "the service has not revoked it");
});

if (process.env.EXPECT_PANIC) {
  await checks.check("an actor that panics is seen to, and to come back", async () => {
    const path = process.env.EXPECT_PANIC;
    await to("Actors");
    const before = Number(await actorRow(path).locator("td[data-label=Restarts]").innerText());
    await search();
    await page.waitForFunction(([name, least]) => {
      const button = document.querySelector(`button[aria-label="Details of ${name}"]`);
      return Number(button?.closest("tr")?.querySelector("td[data-label=Restarts]")?.innerText) > least;
    }, [path, before], { timeout: 15_000 });
    await actorRow(path).getByText("Running").waitFor({ timeout: 15_000 });
    await shots(page, folder, "admin-panic");
    await to("Timeline");
    const entry = page.locator(".timeline li", { hasText: path }).filter({ hasText: "Panicked" }).first();
    await entry.getByText("back after").waitFor({ timeout: 15_000 });
    ensure((await page.locator(".lanes li", { hasText: path }).count()) === 1, "the outage is not among the lanes");
    await shots(page, folder, "admin-panic-timeline");
  });
}

await checks.check("a connection that is cut is said plainly, and comes back by itself", async () => {
  await to("Overview");
  await live();
  watch.errorsExpected = true;
  const cut = proxy.cut(4000);
  await page.locator(".connection.lost").waitFor({ timeout: 5000 });
  await accessible(page, "a lost connection");
  await page.getByText(/What is shown is \d+ seconds? old/).waitFor();
  await page.screenshot({ path: `${folder}/admin-lost.png` });
  await cut;
  await live(page, 15_000);
  watch.errorsExpected = false;
});

await checks.check("a page that nobody looks at asks for nothing, and goes on when somebody does", async () => {
  const hide = (hidden) =>
    page.evaluate((value) => {
      Object.defineProperty(document, "hidden", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  await hide(true);
  await page.locator(".connection.paused").waitFor();
  let asked = 0;
  const count = (request) => (asked += request.url().includes("/admin/") ? 1 : 0);
  page.on("request", count);
  await page.waitForTimeout(3000);
  ensure(asked === 0, `${asked} requests were made`);
  await hide(false);
  await live();
  page.off("request", count);
  ensure(asked > 0, "nothing was asked for again");
});

await page.context().close();

// ---------------------------------------------------------------- on canned answers

const NAMES =
  "first_token_p50_ms first_token_p95_ms token_p50_ms token_p95_ms input_tokens output_tokens requests_ok requests_cancelled requests_refused requests_error waiting running parked cache_evidence cache_answers cache_near cache_shared cache_generated ingested lag_events lag_ms resident_bytes cpu_share".split(" ");
const hostile = "<img src=x onerror=alert(1)><script>alert(1)</script>";
const real = await status();

/** A stream of events that the checks write to. */
const streams = new Set();
answers.set("/admin/events", (_, response) => {
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  streams.add(response);
  response.on("close", () => streams.delete(response));
  emit("status", real);
});
const emit = (event, data) => streams.forEach((stream) => stream.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`));

/** An hour of samples, with half of it missing for what is measured of answers. */
function history(until = Date.now()) {
  const at_ms = Array.from({ length: 720 }, (_, n) => until - (719 - n) * 5000);
  const series = Object.fromEntries(NAMES.map((name, which) => [name, at_ms.map((_, n) => (name.endsWith("_p50_ms") || name.endsWith("_p95_ms") ? (n % 240 < 120 ? null : 100 + n + which) : 10 + which + (n % 60)))]));
  series.resident_bytes = at_ms.map((_, n) => 500_000_000 + n * 100_000);
  series.requests_ok[719] = 3;
  series.first_token_p50_ms[719] = 340;
  series.input_tokens[719] = 500;
  return { interval_ms: 5000, at_ms, series };
}
answers.set("/admin/series", (_, response) => json(history())(_, response));

const canned = await watch.open(browser, "/admin", desktop);
const legend = (title, label) => canned.locator(".chart", { has: canned.getByRole("heading", { name: title }) }).locator(".legend li", { hasText: label }).locator("b");

await checks.check("an hour of figures is drawn, with units, and gaps where there was nothing", async () => {
  await canned.waitForFunction(() => /\d/.test(document.querySelector(".legend b")?.innerText ?? ""));
  ensure((await legend("Time to first token", "Median").innerText()) === "340 ms", `the median is ${await legend("Time to first token", "Median").innerText()}`);
  ensure((await legend("Tokens", "In").innerText()) === "100", `tokens a second are ${await legend("Tokens", "In").innerText()}`);
  ensure((await legend("Requests by outcome", "Answered").innerText()) === "36", `requests a minute are ${await legend("Requests by outcome", "Answered").innerText()}`);
  const inked = await canned.locator(".chart canvas").evaluateAll((all) =>
    all.map((canvas) => {
      const { width, height } = canvas;
      const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
      // Columns of the plot in which there is a coloured point; text and grid are grey.
      const columns = Array.from({ length: width }, (_, x) => {
        for (let y = 0; y < height * 0.82; y++) {
          const at = (y * width + x) * 4;
          if (data[at + 3] > 100 && Math.max(data[at], data[at + 1], data[at + 2]) - Math.min(data[at], data[at + 1], data[at + 2]) > 40) return true;
        }
        return false;
      });
      const plot = columns.slice(columns.indexOf(true), columns.lastIndexOf(true) + 1);
      return { drawn: plot.length / width, share: plot.filter(Boolean).length / Math.max(1, plot.length) };
    }),
  );
  inked.forEach(({ drawn }, n) => ensure(drawn > 0.6, `chart ${n} is drawn over ${Math.round(drawn * 100)} % of its width`));
  ensure(inked[0].share < 0.75, `the gaps of the first chart are drawn over: ${inked[0].share}`);
  ensure(inked[7].share > 0.95, `a line without gaps has gaps: ${inked[7].share}`);
});

await checks.check("the pointer reads all charts at one time, and a line can be hidden", async () => {
  const box = await canned.locator(".plot").first().boundingBox();
  await canned.mouse.move(box.x + box.width * 0.5, box.y + 60);
  const times = canned.locator(".chart header .muted");
  await canned.waitForFunction(() => [...document.querySelectorAll(".chart header .muted")].every((one) => /^\d\d:\d\d:\d\d$/.test(one.textContent)));
  ensure(new Set(await times.allInnerTexts()).size === 1, "the charts show different times");
  await canned.mouse.move(5, 5);
  await canned.getByRole("button", { name: /^Median/ }).first().click();
  ensure((await canned.getByRole("button", { name: /^Median/ }).first().getAttribute("aria-pressed")) === "false", "the line is not hidden");
  await canned.getByRole("button", { name: /^Median/ }).first().click();
  for (const span of ["5 min", "15 min", "1 hour"]) await canned.getByRole("button", { name: span, exact: true }).click();
});

await checks.check("a new sample is on the charts at once", async () => {
  const sample = Object.fromEntries(NAMES.map((name) => [name, 1]));
  emit("sample", { ...sample, at_ms: Date.now() + 1000, first_token_p50_ms: 777, waiting: null });
  await canned.waitForFunction(() => document.querySelector(".legend b").innerText === "777 ms");
  ensure((await legend("Answers at work", "Waiting").innerText()) === "–", "nothing is shown as something");
  await shots(canned, folder, "admin-charts");
});

await checks.check("an outage is told as one entry with its end, and nothing in a message is executed", async () => {
  const now = Date.now();
  const incidents = [
    { at_ms: now - 3_000_000, actor: "embedder", what: "started", message: null },
    { at_ms: now - 900_000, actor: "read/retriever", what: "panicked", message: `unwrap on ${hostile}` },
    { at_ms: now - 898_000, actor: "read/retriever", what: "recovered", message: null },
    { at_ms: now - 60_000, actor: `write/${hostile}`, what: "died", message: hostile },
  ];
  emit("status", { ...real, incidents, ready: false, troubles: [`read/retriever is starting: ${hostile}`], degraded: ["no events from NATS: connection refused"] });
  await to("Timeline", canned);
  await canned.locator(".timeline li", { hasText: "read/retriever" }).getByText("back after 2.0 s").waitFor();
  await canned.locator(".timeline li", { hasText: "still down" }).waitFor();
  ensure((await canned.locator(".lane i").count()) === 2 && (await canned.locator(".lane i.lasting").count()) === 1, "the lanes do not show two outages, one of them lasting");
  const note = await canned.locator(".health-note").innerText();
  ensure(note.includes("Not ready") && note.includes("read/retriever is starting") && note.includes("NATS"), `the strip says ${JSON.stringify(note)}`);
  ensure((await canned.locator("main img, main script").count()) === 0, "a message became an element");
  await accessible(canned, "a service that is not ready");
  await shots(canned, folder, "admin-outage");
  emit("status", real);
});

await checks.check("dead letters are listed page by page, published again and deleted", async () => {
  let letters = Array.from({ length: 60 }, (_, n) => ({
    id: String(n + 1), at_ms: Date.now() - n * 60_000, subject: "documents.hr.upserted", document_id: n === 0 ? hostile : `handbook/${n}.pdf`, event_id: `e-${n}`,
    reason: n === 1 ? hostile : "the PDF has no text", attempts: 5, bytes: 20_480,
  }));
  const done = [];
  answers.set("GET /admin/dead-letters", (request, response) => {
    const query = new URL(request.url, base).searchParams;
    const left = letters.filter(({ id }) => Number(id) > Number(query.get("after") ?? 0));
    const page = left.slice(0, Number(query.get("limit")));
    json({ bus: true, letters: page, next: left.length > page.length ? page.at(-1).id : null })(request, response);
  });
  for (const { id } of letters) {
    answers.set(`POST /admin/dead-letters/${id}/retry`, (request, response) => {
      done.push(`retry ${id}`);
      letters = letters.filter((one) => one.id !== id);
      nothing(202)(request, response);
    });
    answers.set(`DELETE /admin/dead-letters/${id}`, (request, response) => {
      done.push(`delete ${id}`);
      letters = letters.filter((one) => one.id !== id);
      nothing(204)(request, response);
    });
  }
  await to("Dead letters", canned);
  const rows = canned.locator("table.letters tbody tr");
  await rows.first().waitFor();
  ensure((await rows.count()) === 50, `${await rows.count()} are shown of a page of 50`);
  await canned.getByRole("button", { name: "Show more" }).click();
  await canned.waitForFunction(() => document.querySelectorAll("table.letters tbody tr").length === 60);
  ensure((await canned.locator("main img, main script").count()) === 0, "something of a letter became an element");
  await accessible(canned, "dead letters");
  await shots(canned, folder, "admin-letters");
  await canned.getByRole("button", { name: "Retry letter 3", exact: true }).click();
  await canned.getByText("1 event was published again.").waitFor();
  await canned.getByRole("button", { name: "Delete letter 4", exact: true }).click();
  await canned.locator("dialog", { hasText: "lost for good" }).getByRole("button", { name: "Delete", exact: true }).click();
  await canned.waitForFunction(() => document.querySelectorAll("table.letters tbody tr").length === 58);
  ensure(done.join() === "retry 3,delete 4", `what was done is ${done}`);
  await canned.getByRole("button", { name: "Retry these 58" }).click();
  await canned.getByText("There are no dead letters.").waitFor();
  ensure(letters.length === 0, `${letters.length} were left`);
});

await checks.check("without a bus there are no dead letters, and the page says why", async () => {
  answers.set("GET /admin/dead-letters", json({ bus: false, letters: [], next: null }));
  await canned.reload();
  await canned.getByText("No bus is connected").waitFor();
  await accessible(canned, "no bus");
});

await checks.check("secrets of the configuration are shown as hidden", async () => {
  answers.set("/admin/config", json({ nats: { token: "***", servers: ["nats://a:4222"] }, redis: { url: "redis://:***@cache:6379" }, note: hostile }));
  await to("Configuration", canned);
  await canned.locator(".settings dt", { hasText: "token" }).waitFor();
  ensure((await canned.locator(".settings dl > div", { hasText: "token" }).innerText()).includes("Hidden"), "the token is not shown as hidden");
  ensure((await canned.locator("main img, main script").count()) === 0, "a setting became an element");
  answers.delete("/admin/config");
});

await checks.check("who may not see the page is told so, and can sign in with another key", async () => {
  watch.errorsExpected = true;
  const problem = { type: "urn:answerd:problem:forbidden", title: "Forbidden", status: 403, detail: "the key lacks the scope `admin`" };
  const events = answers.get("/admin/events");
  answers.set("/admin/events", json(problem, 403));
  const forbidden = await watch.open(browser, "/admin", desktop);
  await forbidden.getByText("You may not see this page").waitFor();
  await accessible(forbidden, "the forbidden page");
  await shots(forbidden, folder, "admin-forbidden");
  answers.set("/admin/events", events);
  await forbidden.context().close();
  watch.errorsExpected = false;
});

await checks.check("a thousand sequences on sixty actors and ten workers leave the page quick", async () => {
  await to("Actors", canned);
  const busy = (n) => ({
    ...real,
    actors: [
      ...Array.from({ length: 50 }, (_, at) => actor(`part-${at}`, n + at)),
      { part: "pool", ...actor("pool", n), detail: { model: "big", admission: { waiting: n % 900, running: 1000, parked: n % 50, slots: 1000, refused: 0 } }, children: Array.from({ length: 10 }, (_, at) => ({ ...actor(`worker-${at}`, n), detail: worker(n + at) })) },
    ],
  });
  const actor = (part, n) => ({ part, name: part, state: "running", depth: n % 64, capacity: 64, capacity_reason: "so many", handled: n * 17, failed: 0, refused: 0, panics: 0, restarts: {}, busy: (n % 100) / 100, oldest_waiting_ms: n % 3000, detail: { n } });
  const worker = (n) => ({ state: "ready", error: null, model: "big", context: 4096, load: { running: 100, parked: n % 9, waiting: n % 90, slots: 100, context_used: n % 400_000, context_size: 409_600 }, totals: { prefill_tokens: n * 90, cached_tokens: n, decode_tokens: n * 200, steps: n, busy_seconds: n }, engine: null });
  await canned.evaluate(() => {
    window.tasks = [];
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((entry) => entry.duration))).observe({ type: "longtask" });
  });
  for (const section of ["Actors", "Models", "Overview"]) {
    await to(section, canned);
    await canned.waitForTimeout(600);
    await canned.evaluate(() => (window.tasks = []));
    // Ten times as often as the service tells.
    for (let n = 0; n < 60; n++) {
      emit("status", busy(1000 + n));
      await canned.waitForTimeout(100);
    }
    const tasks = await canned.evaluate(() => window.tasks);
    checks.figure(`longest task on ${section}, ten statuses a second`, tasks.length === 0 ? "under 50 ms" : `${Math.round(Math.max(...tasks))} ms`);
  }
  emit("status", real);
});

await checks.check("a day of samples and statuses leaves the memory as it was", async () => {
  await to("Overview", canned);
  const inside = await canned.context().newCDPSession(canned);
  const memory = async () => {
    await inside.send("HeapProfiler.collectGarbage");
    const { usedSize } = await inside.send("Runtime.getHeapUsage");
    return { heap: usedSize, nodes: await canned.evaluate(() => document.querySelectorAll("*").length) };
  };
  let at_ms = Date.now() + 60_000;
  let drawn = 0;
  /** So many samples, as fast as they are taken. */
  const pour = async (count) => {
    for (let n = 0; n < count; n++) {
      at_ms += 5000;
      emit("sample", { ...Object.fromEntries(NAMES.map((name, which) => [name, (n + which) % 100])), at_ms });
      if (n % 20 === 0) {
        emit("status", { ...real, uptime_s: real.uptime_s + n });
        await canned.waitForTimeout(5);
      }
    }
    drawn += count;
    await canned.waitForTimeout(1500);
  };
  await pour(1500);
  const before = await memory();
  await pour(17_280 - 1500);
  const after = await memory();
  checks.figure(`after ${drawn.toLocaleString("en")} samples`, `${((after.heap - before.heap) / 2 ** 20).toFixed(1)} MiB more, ${after.nodes - before.nodes} elements more`);
  ensure(after.nodes - before.nodes < 50, `there are ${after.nodes - before.nodes} elements more`);
  ensure(after.heap - before.heap < 8 * 2 ** 20, `there are ${(after.heap - before.heap) / 2 ** 20} MiB more`);
});

await checks.check("a phone shows every section without scrolling sideways, fit for a finger", async () => {
  answers.delete("GET /admin/dead-letters");
  const phone = await watch.open(browser, "/admin", { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, colorScheme: "dark" });
  await phone.locator(".connection.live").waitFor();
  for (const section of SECTIONS) {
    await to(section, phone);
    await phone.locator(".section .waiting").waitFor({ state: "detached" });
    await phone.waitForTimeout(200);
    ensure((await overflow(phone)) <= 0, `${section} is too wide by ${await overflow(phone)} px`);
    await accessible(phone, `${section} on a phone`);
  }
  await phone.context().close();
});

await watch.atTheEnd(checks);
await browser.close();
proxy.close();
checks.end();
