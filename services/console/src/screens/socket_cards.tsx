// What a connection of this browser is used for: subscriptions, publishing, and its messages.
import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import { count, plural } from '../format'
import type { Live } from '../mqtt/live'
import type { Message } from '../mqtt/messages'
import { fromBase64 } from '../mqtt/payload'
import { nextColour, type Pairs, type Saved } from '../mqtt/saved'
import { filterProblem, topicProblem } from '../mqtt/topics'
import { t } from '../texts'
import { Area, Badge, Button, Card, Check, Choice, Empty, Fold, Notice, Search, Text } from '../ui/kit'
import { MessageDialog } from '../ui/message'
import { MessageList, useVersion } from '../ui/messages'
import { toast } from '../ui/state'
import { PairsEditor } from './connection_dialog'

type Qos = '0' | '1' | '2'
const QOS: [Qos, string][] = [['0', 'QoS 0'], ['1', 'QoS 1'], ['2', 'QoS 2']]

export function SubscriptionsCard({ saved, live, save }: { saved: Saved, live: Live, save: (saved: Saved) => void }): JSX.Element {
  const [filter, setFilter] = useState('')
  const [qos, setQos] = useState<Qos>('1')
  const problem = filter ? filterProblem(filter) : null
  const add = (): void => {
    if (!filter || problem) return
    const others = saved.subscriptions.filter(one => one.filter !== filter)
    const added = { filter, qos: Number(qos) as 0 | 1 | 2, colour: nextColour(others), noLocal: false }
    save({ ...saved, subscriptions: [...others, added] })
    void live.subscribe(added)
    setFilter('')
  }
  const drop = (gone: string): void => {
    save({ ...saved, subscriptions: saved.subscriptions.filter(one => one.filter !== gone) })
    live.unsubscribe(gone)
  }
  return (
    <Card title={t.socket.subscriptions} flush>
      <form class="sub-form" onSubmit={event => { event.preventDefault(); add() }}>
        <Text label={t.socket.filter} mono value={filter} onInput={setFilter} placeholder="plant/#" problem={problem} />
        <Choice label="QoS" value={qos} options={QOS} onChange={setQos} />
        <Button type="submit" disabled={!filter || Boolean(problem)}>{t.socket.subscribe}</Button>
      </form>
      <div class="subs">
        {saved.subscriptions.map(one => (
          <div class="sub" key={one.filter}>
            <i class={`swatch curve-${one.colour}`} />
            <code>{one.filter}</code>
            {live.refused.value[one.filter] && <Badge tone="error">{t.socket.refused}</Badge>}
            <span class="quiet-text nowrap">QoS {one.qos}</span>
            <Button kind="quiet" small icon="close" label={t.socket.unsubscribe(one.filter)} onClick={() => { drop(one.filter) }} />
          </div>
        ))}
      </div>
      {Object.entries(live.refused.value).map(([name, text]) => (
        <div class="publish" key={name}><Notice tone="error" title={name}> {text}</Notice></div>
      ))}
      {saved.subscriptions.length === 0 && <Empty title={t.socket.noSubscriptions}>{t.socket.noSubscriptionsHint}</Empty>}
    </Card>
  )
}

type Format = 'text' | 'json' | 'hex' | 'base64'

function encode(text: string, format: Format): Uint8Array | string {
  if (format === 'json') {
    try {
      JSON.parse(text)
    } catch (error) {
      return t.publish.noJson(error instanceof Error ? error.message : '')
    }
  }
  if (format === 'hex') {
    const digits = text.replace(/\s+/g, '')
    if (!/^([0-9a-f]{2})*$/i.test(digits)) return t.publish.noHex
    return Uint8Array.from(digits.match(/../g) ?? [], pair => parseInt(pair, 16))
  }
  if (format === 'base64') {
    try {
      return fromBase64(text.trim())
    } catch {
      return t.publish.noBase64
    }
  }
  return new TextEncoder().encode(text)
}

export function PublishCard({ saved, live }: { saved: Saved, live: Live }): JSX.Element {
  const [topic, setTopic] = useState('')
  const [text, setText] = useState('')
  const [format, setFormat] = useState<Format>('text')
  const [qos, setQos] = useState<Qos>('1')
  const [retain, setRetain] = useState(false)
  const [more, setMore] = useState({ expiry: '', contentType: '', responseTopic: '', correlation: '' })
  const [pairs, setPairs] = useState<Pairs>([])
  const problem = topic ? topicProblem(topic) : null
  const payload = encode(text, format)
  const payloadProblem = typeof payload === 'string' && text ? payload : null
  const set = (name: keyof typeof more) => (value: string): void => { setMore({ ...more, [name]: value }) }
  const send = async (): Promise<void> => {
    if (typeof payload === 'string') return
    const failure = await live.publish({
      topic, payload, qos: Number(qos) as 0 | 1 | 2, retain, ...more, isText: format === 'text' || format === 'json', userProperties: pairs
    })
    if (failure) toast(failure, true)
  }
  return (
    <Card title={t.publish.title} flush>
      <form class="publish" onSubmit={event => { event.preventDefault(); void send() }}>
        <Text label={t.publish.topic} mono value={topic} onInput={setTopic} placeholder="plant/line-1/command" problem={problem} required />
        <Area label={t.publish.payload} rows={3} value={text} onInput={setText} problem={payloadProblem} />
        <div class="publish-row">
          <Choice label={t.publish.format} value={format} onChange={setFormat}
            options={[['text', t.publish.formats.text], ['json', 'JSON'], ['hex', 'Hex'], ['base64', 'Base64']]} />
          <div class="field narrow"><Choice label="QoS" value={qos} options={QOS} onChange={setQos} /></div>
        </div>
        <div class="publish-foot">
          <Check label={t.retainFlag} checked={retain} onChange={setRetain} />
          <Button kind="primary" type="submit" icon="send"
            disabled={live.state.value !== 'connected' || !topic || Boolean(problem) || typeof payload === 'string'}>{t.publish.send}</Button>
        </div>
        {saved.version === 5 && (
          <Fold title={t.publish.properties}>
            <div class="fields">
              <Text label={t.publish.expiry} type="number" min={1} value={more.expiry} onInput={set('expiry')} />
              <Text label={t.publish.contentType} value={more.contentType} onInput={set('contentType')} placeholder="application/json" />
              <Text label={t.publish.responseTopic} mono value={more.responseTopic} onInput={set('responseTopic')} />
              <Text label={t.publish.correlation} mono value={more.correlation} onInput={set('correlation')} />
            </div>
            <p class="quiet-text">{t.pairs.title}</p>
            <PairsEditor pairs={pairs} onChange={setPairs} />
          </Fold>
        )}
      </form>
    </Card>
  )
}

function download(name: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: 'application/jsonl' }))
  const link = document.createElement('a')
  link.href = url
  link.download = name
  link.click()
  setTimeout(() => { URL.revokeObjectURL(url) }, 1000)
}

export function MessagesCard({ saved, live }: { saved: Saved, live: Live }): JSX.Element {
  const messages = live.messages
  const [filter, setFilter] = useState('')
  const [open, setOpen] = useState<Message | undefined>()
  useVersion(messages)
  return (
    <Card title={t.messages.title} flush extra={(
      <>
        <span aria-live="off" class="nowrap">{plural(messages.received, 'received', 'received')}{messages.shown.length !== messages.count && ` · ${t.messages.shown(count(messages.shown.length))}`}</span>
        <Button small icon={messages.paused ? 'play' : 'pause'} pressed={messages.paused} onClick={() => { messages.setPaused(!messages.paused) }}>
          {messages.paused ? t.messages.resumeHeld(count(messages.held)) : t.messages.pause}
        </Button>
        <Button small icon="download" disabled={messages.shown.length === 0}
          onClick={() => { download(`${saved.name.replace(/\W+/g, '-')}.jsonl`, messages.export()) }}>{t.messages.export}</Button>
        <Button small icon="trash" onClick={() => { messages.clear() }}>{t.messages.clear}</Button>
      </>
    )}>
      <div class="publish"><Search label={t.messages.filter} value={filter} onInput={value => {
        setFilter(value)
        messages.setFilter(value)
      }} /></div>
      <MessageList messages={messages} onOpen={setOpen}
        empty={filter ? { title: t.messages.noMatch, text: t.messages.noMatchHint } : { title: t.messages.none, text: t.messages.noneHint }} />
      {open && <MessageDialog message={open} onClose={() => { setOpen(undefined) }} />}
    </Card>
  )
}
