// The WebSocket client: it connects from this browser, to a listener of this broker or to any other.
import { signal } from '@preact/signals'
import type { JSX } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { useApi } from '../api/use'
import { best, type Listener } from '../mqtt/listeners'
import { urlOf } from '../mqtt/listeners'
import { Live, type State } from '../mqtt/live'
import { fresh, keep, load, type Saved } from '../mqtt/saved'
import { t } from '../texts'
import { confirmed } from '../ui/act'
import { Age, Badge, Button, Card, Empty, Heading, Notice, type Tone } from '../ui/kit'
import { ConnectionDialog } from './connection_dialog'
import { readListeners } from './listeners'
import { MessagesCard, PublishCard, SubscriptionsCard } from './socket_cards'

/** They outlive the screen: who looks at a client meanwhile stays connected. */
const connections = signal<Saved[]>(load())
const chosen = signal<string | undefined>(connections.value[0]?.id)
const lives = new Map<string, Live>()
let listeners: Listener[] = []

function liveOf(id: string): Live {
  let live = lives.get(id)
  if (!live) {
    live = new Live(() => listeners)
    lives.set(id, live)
  }
  return live
}

function save(changed: Saved): void {
  const known = connections.value.some(one => one.id === changed.id)
  connections.value = known ? connections.value.map(one => (one.id === changed.id ? changed : one)) : [...connections.value, changed]
  keep(connections.value)
}

function forget(saved: Saved): void {
  liveOf(saved.id).disconnect()
  lives.delete(saved.id)
  connections.value = connections.value.filter(one => one.id !== saved.id)
  keep(connections.value)
  if (chosen.value === saved.id) chosen.value = connections.value[0]?.id
}

const TONES: Record<State, Tone> = { idle: 'quiet', connecting: 'warning', connected: 'ok', failed: 'error', waiting: 'warning' }
const LIGHTS: Record<State, string> = { idle: '', connecting: 'connecting', connected: 'connected', failed: 'failed', waiting: 'connecting' }

function SavedRow({ saved, onEdit }: { saved: Saved, onEdit: () => void }): JSX.Element {
  const state = liveOf(saved.id).state.value
  return (
    <div class={`saved-row${chosen.value === saved.id ? ' chosen' : ''}`}>
      <button type="button" aria-pressed={chosen.value === saved.id} onClick={() => { chosen.value = saved.id }}>
        <b><i class={`light ${LIGHTS[state]}`} /><span>{saved.name}</span><span class="hidden">{t.socket.states[state]}</span></b>
        <small>{saved.url}</small>
      </button>
      <Button kind="quiet" small icon="edit" label={t.socket.edit(saved.name)} onClick={onEdit} />
    </div>
  )
}

function Connected({ saved, onEdit }: { saved: Saved, onEdit: () => void }): JSX.Element {
  const live = liveOf(saved.id)
  const state = live.state.value
  const problem = live.problem.value
  const busy = state === 'connected' || state === 'connecting' || state === 'waiting'
  return (
    <div class="stack">
      <Card>
        <div class="heading">
          <div class="heading-text">
            <h2 class="strong">{saved.name} <Badge tone={TONES[state]} dot>{t.socket.states[state]}</Badge></h2>
            <p class="quiet-text break">{saved.url} · {saved.clientId || t.socket.assigned} · MQTT {saved.version === 5 ? '5.0' : '3.1.1'}
              {state === 'connected' && <> · {t.socket.since} <Age at={live.since.value} />{live.sessionPresent.value && ` · ${t.socket.present}`}</>}
            </p>
          </div>
          <div class="heading-actions">
            <Button onClick={onEdit}>{t.socket.settings}</Button>
            {busy ? <Button onClick={() => { live.disconnect() }}>{t.socket.disconnect}</Button>
              : <Button kind="primary" onClick={() => { void live.connect(saved) }}>{t.socket.connect}</Button>}
          </div>
        </div>
        {problem && <div class="publish-problem"><Notice tone={state === 'waiting' ? 'warning' : 'error'} title={problem.text}> {problem.todo}</Notice></div>}
      </Card>
      <div class="columns">
        <SubscriptionsCard saved={saved} live={live} save={save} />
        <PublishCard key={saved.id} saved={saved} live={live} />
      </div>
      <MessagesCard key={saved.id} saved={saved} live={live} />
    </div>
  )
}

export function Socket(): JSX.Element {
  const [editing, setEditing] = useState<Saved | undefined>()
  const known = useApi<unknown>('listeners', {}, 60_000)
  listeners = readListeners(known.data)
  useEffect(() => {
    if (connections.value.length > 0 || !known.data) return
    const listener = best(listeners, location.protocol === 'https:')
    if (!listener) return
    const first = fresh(urlOf(listener, location.hostname), t.socket.thisBroker)
    save(first)
    chosen.value = first.id
  }, [known.data])
  const add = (): void => {
    const listener = best(listeners, location.protocol === 'https:')
    setEditing(fresh(listener ? urlOf(listener, location.hostname) : `ws://${location.hostname}:8083/mqtt`, ''))
  }
  const current = connections.value.find(one => one.id === chosen.value)
  return (
    <>
      <Heading title={t.nav.socket} lead={t.socket.lead} />
      <div class="client">
        <Card title={t.socket.connections} flush extra={<Button small icon="plus" onClick={add}>{t.socket.add}</Button>}>
          <div class="saved">
            {connections.value.map(one => <SavedRow key={one.id} saved={one} onEdit={() => { setEditing(one) }} />)}
            {connections.value.length === 0 && <Empty title={t.socket.none}>{t.socket.noneHint}</Empty>}
          </div>
        </Card>
        {current ? <Connected saved={current} onEdit={() => { setEditing(current) }} />
          : <Card><Empty title={t.socket.choose}>{t.socket.chooseHint}</Empty></Card>}
      </div>
      {editing && (
        <ConnectionDialog saved={editing} listeners={listeners} isNew={!connections.value.some(one => one.id === editing.id)}
          onClose={() => { setEditing(undefined) }}
          onSave={saved => {
            save(saved)
            chosen.value = saved.id
            setEditing(undefined)
          }}
          onForget={() => {
            const saved = editing
            setEditing(undefined)
            void confirmed({ title: t.socket.forgetTitle(saved.name), effects: t.socket.forgetEffects, action: t.socket.forget },
              () => { forget(saved); return Promise.resolve() }, t.socket.forgotten(saved.name))
          }} />
      )}
    </>
  )
}
