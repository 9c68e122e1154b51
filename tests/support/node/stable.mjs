// Keeps MQTT.js clients connected with ordinary settings and tells every connect and close as a line of JSON.
//
// Called by tests/cluster/test_stable_clients.py with one JSON argument: { url, prefix, versions, topic }. It ends when
// its standard input does.

import mqtt from 'mqtt'

const job = JSON.parse(process.argv[2])

function tell (what) {
  process.stdout.write(JSON.stringify(what) + '\n')
}

job.versions.forEach((protocolVersion, index) => {
  const name = `${job.prefix}-${index}`
  const client = mqtt.connect(job.url, {
    clientId: name,
    protocolVersion,
    keepalive: 60,
    clean: false,
    ...(protocolVersion === 5 ? { properties: { sessionExpiryInterval: 300 } } : {})
  })
  client.on('connect', connack => {
    tell({ name, event: 'connect', present: connack.sessionPresent })
    client.subscribe(job.topic, { qos: 1 })
  })
  client.on('close', () => tell({ name, event: 'close' }))
  client.on('disconnect', packet => tell({ name, event: 'disconnect', code: packet.reasonCode }))
  client.on('error', error => tell({ name, event: 'error', text: String(error) }))
  client.on('message', (topic, payload) => tell({ name, event: 'message', text: payload.toString() }))
})

process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
