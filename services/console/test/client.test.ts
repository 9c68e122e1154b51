import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { get, me, reachable, whoAmI } from '../src/api/client'

const ANN = { user: 'ann', role: 'admin' as const, csrf: 'x', can_log_out: true }

function answers(status: number, body: unknown = { error: 'no', reason: 'no' }): void {
  vi.stubGlobal('fetch', () => Promise.resolve(new Response(JSON.stringify(body), { status })))
}

beforeEach(() => {
  vi.stubGlobal('document', { baseURI: 'http://127.0.0.1/' })
  me.value = ANN
  reachable.value = true
})
afterEach(() => { vi.unstubAllGlobals() })

describe('a session', () => {
  it('ends with 401', async () => {
    answers(401)
    await whoAmI()
    expect(me.value).toBeNull()
    expect(reachable.value).toBe(true)
  })
  it.each([500, 502, 503, 504])('goes on after %s, and the page tries again', async status => {
    answers(status)
    await whoAmI()
    expect([me.value, reachable.value]).toEqual([ANN, false])
    answers(200, ANN)
    await whoAmI()
    expect([me.value, reachable.value]).toEqual([ANN, true])
  })
  it.each([503, 504])('is not known before the first answer that is not %s', async status => {
    me.value = undefined
    answers(status)
    await whoAmI()
    expect([me.value, reachable.value]).toEqual([undefined, false])
  })
  it('goes on while one page lacks its store', async () => {
    answers(503)
    await expect(get('audit')).rejects.toThrow('no')
    expect([me.value, reachable.value]).toEqual([ANN, true])
  })
})
