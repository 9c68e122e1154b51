import { describe, expect, it } from 'vitest'
import { ago, bytes, duration, figure, localTimes, moment, sentence, words, zone } from '../src/format'
import { href, parse } from '../src/route'

describe('figures as people read them', () => {
  it.each([
    [0, '0 s'], [0.0004, '0.4 ms'], [0.25, '250 ms'], [59, '59 s'], [61, '1 min 1 s'], [3600 * 27, '1 d 3 h'], [86400 * 40, '40 d'],
    [null, '–']
  ])('%s seconds are %s', (given, text) => { expect(duration(given)).toBe(text) })
  it.each([[0, '0 B'], [1023, '1023 B'], [1536, '1.5 KiB'], [400 * 1024 * 1024, '400 MiB']])(
    '%s bytes are %s', (given, text) => { expect(bytes(given)).toBe(text) })
  it.each([[0, '0'], [0.123, '0.12'], [12.7, '13'], [8421, '8,421'], [1_234_000, '1.23M'], [undefined, '–']])(
    '%s is %s', (given, text) => { expect(figure(given)).toBe(text) })
  it('tells ages and what is to come', () => {
    expect(ago(100, 100.5)).toBe('now')
    expect(ago(100, 190)).toBe('1 min 30 s ago')
    expect(ago(190, 100)).toBe('in 1 min 30 s')
  })
  it('begins sentences with a capital, and names as they are', () => {
    expect(['it is not connected', 'edge-1: slow'].map(sentence)).toEqual(['It is not connected', 'edge-1: slow'])
  })
  it.each([['Asia/Kolkata', '2026-11-30 16:12:07 (UTC+5:30)'], ['America/Caracas', '2026-11-30 06:42:07 (UTC−4)'], ['UTC', '2026-11-30 10:42:07 (UTC)']])(
    'tells times of the API as those of %s', (name, text) => {
      const before = process.env.TZ
      process.env.TZ = name
      try {
        expect(localTimes('banned until 2026-11-30T10:42:07Z: floods')).toBe(`banned until ${text}: floods`)
        expect(`${moment(1796035327)} (${zone(1796035327)})`).toBe(text)
      } finally { if (before == null) delete process.env.TZ; else process.env.TZ = before }
    })
  it('leaves what is no time as it is', () => { expect(localTimes('2026-13-99T10:42:07Z, 10:42')).toBe('2026-13-99T10:42:07Z, 10:42') })
  it('makes words of names', () => {
    expect(words('keep_alive_expired')).toBe('Keep alive expired')
    expect(words('qos0_offline')).toBe('QoS0 offline')
    expect(words('tls_handshake')).toBe('TLS handshake')
  })
})

describe('addresses of the page', () => {
  it.each(['a', 'a/b', 'ü +#?&=%', '../x', '$share/g/t'])('carry the name %s', name => {
    const route = parse(href(['clients', name], { mount_point: name, empty: '' }))
    expect(route.path).toEqual(['clients', name])
    expect(route.query.get('mount_point')).toBe(name)
    expect(route.query.has('empty')).toBe(false)
  })
  it('survive what nobody has encoded', () => { expect(parse('#/clients/100%').path).toEqual(['clients', '100%']) })
})
