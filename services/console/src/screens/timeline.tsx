// Events of the record, newest first, as a person would tell them.
import type { JSX } from 'preact'
import type { BrokerEvent } from '../api/types'
import { clock, count, day, words, zone } from '../format'
import { href } from '../route'
import { t } from '../texts'
import { Empty } from '../ui/kit'

const TONES: Record<string, string> = {
  connected: 'ok', subscribed: 'ok', taken_over: 'warning', keep_alive_expired: 'warning', session_expired: 'warning',
  session_ended: 'warning', dropped: 'warning', quota: 'warning', shed: 'info', drained: 'info', will_published: 'info',
  refused: 'error', subscribe_denied: 'error', publish_denied: 'error', banned: 'error'
}

/** Reasons that their kind says already. */
const SAID = new Set(['session_taken_over', 'keep_alive', 'keep_alive_timeout', 'expired', 'banned'])

function about(event: BrokerEvent): string {
  const texts = t.events
  const parts = [
    event.edge ? texts.edge(event.edge) : '',
    event.address ? texts.from(event.address) : '',
    event.listener ? texts.listener(event.listener) : '',
    event.user ? texts.user(event.user) : '',
    event.version ? `MQTT ${event.version.replace(/^MQTT\s*/, '')}` : ''
  ]
  return parts.filter(Boolean).join(' · ')
}

export function Event({ event, withClient = false }: { event: BrokerEvent, withClient?: boolean }): JSX.Element {
  const reason = event.reason && !SAID.has(event.reason) && event.reason !== event.kind ? words(event.reason).replace(/^[A-Z](?=[a-z])/, letter => letter.toLowerCase()) : ''
  return (
    <li class={`event ${TONES[event.kind] ?? ''}`}>
      <time dateTime={new Date(event.at * 1000).toISOString()} title={`${day(event.at)} ${clock(event.at, true)} (${zone(event.at)})`}>{clock(event.at)}</time>
      <span class="mark" />
      <div>
        <p>
          <b>{t.events.kinds[event.kind] ?? words(event.kind)}</b>
          {withClient && event.client && <> <a href={href(['clients', event.client], { mount_point: event.mount_point })}>{event.client}</a></>}
          {reason && `: ${reason}`}
          {event.topic && <> <code>{event.topic}</code></>}
          {event.count != null && event.count > 1 && ` (${count(event.count)}×)`}
        </p>
        {event.detail && <p>{event.detail}</p>}
        <small>{about(event)}</small>
      </div>
    </li>
  )
}

export function Timeline({ events, withClient = false }: { events: BrokerEvent[], withClient?: boolean }): JSX.Element {
  if (events.length === 0) return <Empty title={t.events.none}>{t.events.noneHint}</Empty>
  let before = ''
  return (
    <ol class="timeline">
      {events.flatMap(event => {
        const today = day(event.at)
        const head = today === before ? [] : [<li key={today} class="timeline-day">{today} ({zone(event.at)})</li>]
        before = today
        return [...head, <Event key={event.id} event={event} withClient={withClient} />]
      })}
    </ol>
  )
}
