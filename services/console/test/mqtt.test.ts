import { describe, expect, it } from 'vitest'
import { encode } from 'cborg'
import { codeWords, explain, isFinal, urlProblem, type Attempt } from '../src/mqtt/failures'
import { best, urlOf, type Listener } from '../src/mqtt/listeners'
import { Messages } from '../src/mqtt/messages'
import { asHex, preview, render, views } from '../src/mqtt/payload'
import { filterProblem, matches, topicProblem } from '../src/mqtt/topics'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

describe('topic filters', () => {
  it.each([
    ['#', 'a/b', true], ['a/#', 'a', true], ['a/#', 'ab', false], ['+/b', 'a/b', true], ['+/b', '/b', true], ['a/+', 'a/b/c', false],
    ['#', '$SYS/x', false], ['+/x', '$SYS/x', false], ['$SYS/#', '$SYS/x', true], ['$share/g/a/+', 'a/b', true], ['a//b', 'a//b', true]
  ])('%s and %s: %s', (filter, topic, expected) => { expect(matches(filter, topic)).toBe(expected) })
  it.each(['', 'a#', '#/a', 'a+/b', '$share/g', '$share//a', '$share/g+/a'])('%s is refused', filter => {
    expect(filterProblem(filter)).toBeTruthy()
  })
  it.each(['#', '+', 'a/+/#', '/', '$share/g/a', '$SYS/#'])('%s is right', filter => { expect(filterProblem(filter)).toBeNull() })
  it('a topic has no wildcards', () => {
    expect(topicProblem('a/+')).toBeTruthy()
    expect(topicProblem('a/b')).toBeNull()
  })
})

describe('payloads', () => {
  it.each([
    ['{"a": 1}', ['json', 'text', 'hex']], ['21.5', ['json', 'text', 'hex']], ['hello', ['text', 'hex']], ['', ['text', 'hex']]
  ])('%s is seen as %s', (text, expected) => { expect(views(bytes(text))).toEqual(expected) })
  it('finds CBOR in what is no text', () => {
    const payload = encode({ t: 21.5, raw: new Uint8Array([1, 255]) })
    expect(views(payload)).toEqual(['cbor', 'hex'])
    expect(render(payload, 'cbor')).toContain("h'01ff'")
  })
  it('finds images', () => { expect(views(new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0]))[0]).toBe('image') })
  it('shows bytes with their place and their letters', () => {
    expect(asHex(bytes('tide'))).toMatch(/^000000 {2}74 69 64 65 +tide$/)
  })
  it('makes one line, also where a character is cut', () => {
    expect(preview(bytes('a\n  b'))).toBe('a b')
    expect(preview(bytes('ü'.repeat(150)), 201)).toMatch(/^ü+/)
    expect(preview(new Uint8Array([0, 255]))).toBe('00 ff')
  })
})

describe('a list of messages', () => {
  const add = (list: Messages, topic: string, payload = 'x'): void => {
    list.add({ at: 0, topic, payload: bytes(payload), size: payload.length, qos: 0, retain: false })
  }
  it('keeps no more than its limit, the newest ones', () => {
    const list = new Messages(10)
    list.setFilter('a')
    for (let number = 0; number < 100; number += 1) add(list, number % 2 ? `a/${number}` : `b/${number}`)
    expect(list.count).toBeLessThanOrEqual(11)
    expect(list.shown.every(one => one.topic.startsWith('a/'))).toBe(true)
    expect(list.shown.at(-1)?.topic).toBe('a/99')
    list.setFilter('')
    expect(list.shown.length).toBe(list.count)
    expect(list.received).toBe(100)
  })
  it('filters by topic filter and by text', () => {
    const list = new Messages()
    add(list, 'plant/1/temperature', 'Twenty')
    add(list, 'plant/2/pressure', 'two')
    list.setFilter('plant/+/pressure')
    expect(list.shown.map(one => one.topic)).toEqual(['plant/2/pressure'])
    list.setFilter('twenty')
    expect(list.shown.map(one => one.topic)).toEqual(['plant/1/temperature'])
  })
  it('holds what comes while it pauses, and loses nothing', () => {
    const list = new Messages()
    list.setPaused(true)
    add(list, 'a')
    expect([list.shown.length, list.held]).toEqual([0, 1])
    list.setPaused(false)
    expect([list.shown.length, list.held]).toEqual([1, 0])
  })
  it('exports what is shown as JSON lines', () => {
    const list = new Messages()
    add(list, 'a', 'ü')
    list.add({ at: 1, topic: 'b', payload: new Uint8Array([0, 255]), size: 2, qos: 1, retain: true, sent: true })
    const lines = list.export().trimEnd().split('\n').map(line => JSON.parse(line) as Record<string, unknown>)
    expect(lines[0]).toMatchObject({ direction: 'received', topic: 'a', payload: 'ü' })
    expect(lines[1]).toMatchObject({ direction: 'sent', topic: 'b', payload_base64: 'AP8=', at: '1970-01-01T00:00:01.000Z' })
  })
})

const WS: Listener = { name: 'web', protocol: 'ws', port: 8083, path: '/mqtt', tls: false, names: [], endsAt: undefined }
const WSS: Listener = { name: 'secure', protocol: 'wss', port: 8084, path: '/mqtt', tls: true, names: ['*.example.com'], endsAt: 2000 }
const TCP: Listener = { ...WS, name: 'tcp', protocol: 'tcp', port: 1883 }

describe('why a connection failed', () => {
  const said = (changed: Partial<Attempt>): string => {
    const answer = explain({
      url: 'ws://broker:8083/mqtt', pageIsSecure: false, opened: false, opensWithoutSubprotocol: false, version: 5, timedOut: false,
      listeners: [TCP, WS, WSS], now: 1000, ...changed
    })
    return `${answer.text} ${answer.todo}`
  }
  it.each([
    [{ url: 'mqtt://broker:1883' }, 'WebSocket'], [{ url: 'https://broker/mqtt' }, 'wss://broker/mqtt'],
    [{ pageIsSecure: true }, 'HTTPS'], [{ openPath: '/ws' }, '/ws'], [{ opensWithoutSubprotocol: true }, 'subprotocol'],
    [{ url: 'ws://broker:1883/mqtt' }, 'MQTT over TCP'], [{ url: 'wss://broker:8083/mqtt' }, 'ws://broker:8083/mqtt'],
    [{ url: 'ws://a.example.com:8084/mqtt' }, 'wss://a.example.com:8084/mqtt'],
    [{ url: 'wss://10.0.0.1:8084/mqtt' }, 'not for 10.0.0.1'], [{ url: 'wss://a.example.com:8084/mqtt' }, 'does not trust'],
    [{ url: 'wss://a.example.com:8084/mqtt', now: 3000 }, 'expired'], [{ url: 'wss://other/mqtt' }, 'https://other/'],
    [{ url: 'ws://other:9/' }, 'Nothing accepts'], [{ url: 'ws://other:9/', timedOut: true }, 'does not answer'],
    [{ opened: true }, 'before CONNACK'], [{ opened: true, timedOut: true }, 'no CONNACK'],
    [{ opened: true, code: 0x86 }, 'password'], [{ opened: true, code: 5, version: 4 as const }, 'not authorized'],
    [{ opened: true, code: 0xEE }, '0xEE']
  ])('%o', (changed, words) => { expect(said(changed)).toContain(words) })
  it('lets a page that came by TLS use ws:// on this machine', () => {
    expect(urlProblem('ws://localhost:8083/mqtt', true)).toBeNull()
  })
  it('does not connect again where another client has the identifier', () => {
    expect([isFinal(0x8E), isFinal(0x8B), isFinal(undefined)]).toEqual([true, false, false])
    expect(codeWords(0x8E, 5).text).toContain('same client identifier')
  })
  it('begins with a listener that the page may open', () => {
    expect(best([TCP, WS, WSS], true)).toBe(WSS)
    expect(best([TCP, WS, WSS], false)).toBe(WS)
    expect(urlOf(WSS, '::1')).toBe('wss://[::1]:8084/mqtt')
  })
})
