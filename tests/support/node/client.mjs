// Drives MQTT.js the way an application does and reports what it saw as one line of JSON.
//
// Called by tests/outside/test_mqttjs.py with one JSON argument: { url, ca, protocolId, protocolVersion, topic,
// clientId, properties }. The package comes from the test cache through NODE_PATH's ESM substitute: the script is
// copied beside node_modules before it runs.

import fs from 'node:fs'
import mqtt from 'mqtt'

const job = JSON.parse(process.argv[2])
const deadline = setTimeout(() => finish({ error: 'deadline' }), 20000)
const seen = { messages: [], granted: [], packets: 0 }

function finish (extra) {
  clearTimeout(deadline)
  process.stdout.write(JSON.stringify({ ...seen, ...extra }) + '\n', () => process.exit(0))
}

const client = mqtt.connect(job.url, {
  protocolId: job.protocolId,
  protocolVersion: job.protocolVersion,
  clientId: job.clientId,
  clean: true,
  reconnectPeriod: 0,
  connectTimeout: 15000,
  ...(job.ca ? { ca: fs.readFileSync(job.ca) } : {}),
  ...(job.properties ? { properties: job.properties } : {})
})

client.on('error', error => finish({ error: String(error) }))
client.on('close', () => { if (!seen.ended) finish({ error: 'closed' }) })
client.on('connect', async connack => {
  seen.sessionPresent = connack.sessionPresent
  seen.subprotocol = client.stream.socket?.protocol ?? client.stream.protocol ?? null
  client.on('message', (topic, payload, packet) => {
    seen.messages.push({
      topic,
      size: payload.length,
      text: payload.length < 100 ? payload.toString() : null,
      qos: packet.qos,
      retain: packet.retain,
      properties: packet.properties ?? null
    })
  })
  const granted = await client.subscribeAsync(job.topic, { qos: 2 })
  seen.granted = granted.map(one => one.qos)
  for (const qos of [0, 1, 2]) await client.publishAsync(job.topic, `of qos ${qos}`, { qos })
  const large = Buffer.alloc(300000, 'x')
  const userProperties = { b: ['1', '3'], a: '2' }
  await client.publishAsync(job.topic, large, {
    qos: 2,
    ...(job.protocolVersion === 5 ? { properties: { userProperties, contentType: 'text/plain' } } : {})
  })
  await until(() => seen.messages.length >= 4)
  seen.ended = true
  await client.endAsync()
  finish({})
})

async function until (condition) {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 5))
}
