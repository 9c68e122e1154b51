// Serves page.html on loopback, opens it in headless Chromium and calls the functions that it is told to call.
//
// Called by tests/outside/test_browser.py with one JSON argument: { chromium, profile, calls: [{ name, client, url,
// options }] }. Prints one line of JSON: { name: { result } | { error } }; an error tells what the browser wrote to its
// console too, because a page does not learn why a WebSocket failed. Tells its steps on standard error.

import fs from 'node:fs'
import http from 'node:http'
import { chromium } from 'playwright-core'

const job = JSON.parse(process.argv[2])
const files = {
  '/': ['page.html', 'text/html'],
  '/mqtt.min.js': ['node_modules/mqtt/dist/mqtt.min.js', 'text/javascript'],
  '/paho-mqtt.js': ['node_modules/paho-mqtt/paho-mqtt.js', 'text/javascript']
}

const server = http.createServer((request, response) => {
  const [file, type] = files[request.url] ?? []
  if (!file) { response.writeHead(404).end(); return }
  response.writeHead(200, { 'content-type': type }).end(fs.readFileSync(file))
})
await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))

const began = performance.now()
const step = what => process.stderr.write(`${Math.round(performance.now() - began)} ms: ${what}\n`)

step('starting the browser')
const context = await chromium.launchPersistentContext(job.profile, {
  executablePath: job.chromium,
  headless: true,
  timeout: 60000,
  ignoreHTTPSErrors: true,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--ignore-certificate-errors'
  ]
})
const answers = {}
const page = await context.newPage()
const written = []
page.on('console', message => { written.push(message.text()); step(message.text()) })
page.on('crash', () => step('the page crashed'))
step('opening the page')
await page.goto(`http://127.0.0.1:${server.address().port}/`)
for (const { name, client, url, options } of job.calls) {
  written.length = 0
  step(name)
  try {
    const result = await page.evaluate(
      ([use, target, given]) => window[use](target, given), [client, url, options])
    answers[name] = { result }
  } catch (error) {
    answers[name] = { error: [String(error), ...written].join('\n') }
  }
}
step('closing the browser')
await context.close()
process.stdout.write(JSON.stringify(answers) + '\n', () => process.exit(0))
