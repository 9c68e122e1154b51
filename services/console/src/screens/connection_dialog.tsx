// The settings of a saved connection.
import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import { urlProblem } from '../mqtt/failures'
import { forBrowsers, urlOf, type Listener } from '../mqtt/listeners'
import { freshWill, type Pairs, type Saved, type SavedWill } from '../mqtt/saved'
import { topicProblem } from '../mqtt/topics'
import { t } from '../texts'
import { Dialog } from '../ui/dialog'
import { Area, Button, Check, Choice, Fold, Text } from '../ui/kit'

const texts = t.connection

export function PairsEditor({ pairs, onChange }: { pairs: Pairs, onChange: (pairs: Pairs) => void }): JSX.Element {
  const set = (index: number, place: 0 | 1, value: string): void => {
    onChange(pairs.map((pair, at) => (at === index ? (place === 0 ? [value, pair[1]] : [pair[0], value]) : pair)))
  }
  return (
    <div class="pairs">
      {pairs.map(([name, value], index) => (
        <div class="pair" key={index}>
          <input aria-label={t.pairs.name} placeholder={t.pairs.name} value={name} onInput={event => { set(index, 0, event.currentTarget.value) }} />
          <input aria-label={t.pairs.value} placeholder={t.pairs.value} value={value} onInput={event => { set(index, 1, event.currentTarget.value) }} />
          <Button kind="quiet" icon="close" label={t.pairs.remove} onClick={() => { onChange(pairs.filter((_, at) => at !== index)) }} />
        </div>
      ))}
      <div><Button small icon="plus" onClick={() => { onChange([...pairs, ['', '']]) }}>{t.pairs.add}</Button></div>
    </div>
  )
}

function WillFields({ will, five, onChange }: { will: SavedWill, five: boolean, onChange: (will: SavedWill) => void }): JSX.Element {
  const set = (changed: Partial<SavedWill>): void => { onChange({ ...will, ...changed }) }
  return (
    <div class="fields">
      <Text label={texts.willTopic} mono wide value={will.topic} onInput={topic => { set({ topic }) }}
        problem={will.topic ? topicProblem(will.topic) : null} hint={texts.willHint} />
      <Area label={texts.willPayload} wide rows={2} value={will.payload} onInput={payload => { set({ payload }) }} />
      <Choice label="QoS" value={String(will.qos) as '0' | '1' | '2'} options={[['0', '0'], ['1', '1'], ['2', '2']]}
        onChange={qos => { set({ qos: Number(qos) as 0 | 1 | 2 }) }} />
      <div class="field"><span /><Check label={t.retainFlag} checked={will.retain} onChange={retain => { set({ retain }) }} /></div>
      {five && <Text label={texts.willDelay} type="number" min={0} value={will.delay} onInput={delay => { set({ delay }) }} />}
      {five && <Text label={t.publish.expiry} type="number" min={1} value={will.expiry} onInput={expiry => { set({ expiry }) }} />}
      {five && <Text label={t.publish.contentType} value={will.contentType} onInput={contentType => { set({ contentType }) }} />}
    </div>
  )
}

export function ConnectionDialog({ saved, listeners, isNew, onClose, onSave, onForget }: {
  saved: Saved, listeners: Listener[], isNew: boolean, onClose: () => void, onSave: (saved: Saved) => void, onForget: () => void
}): JSX.Element {
  const [draft, setDraft] = useState(saved)
  const set = (changed: Partial<Saved>): void => { setDraft({ ...draft, ...changed }) }
  const problem = draft.url ? urlProblem(draft.url, location.protocol === 'https:') : null
  const five = draft.version === 5
  const urls = forBrowsers(listeners).map(one => urlOf(one, location.hostname))
  return (
    <Dialog title={isNew ? texts.new : texts.title(saved.name)} onClose={onClose} wide>
      <form onSubmit={event => {
        event.preventDefault()
        if (!problem) onSave({ ...draft, name: draft.name || new URL(draft.url).host })
      }}>
        <div class="dialog-body">
          <div class="fields">
            <Text label={texts.name} value={draft.name} onInput={name => { set({ name }) }} placeholder={texts.namePlaceholder} />
            <Choice label={texts.version} value={String(draft.version) as '4' | '5'} options={[['5', 'MQTT 5.0'], ['4', 'MQTT 3.1.1']]}
              onChange={version => { set({ version: version === '5' ? 5 : 4 }) }} />
            <Text label={texts.url} mono wide required value={draft.url} onInput={url => { set({ url }) }} list="broker-urls"
              problem={problem && `${problem.text} ${problem.todo}`} hint={texts.urlHint} />
            <datalist id="broker-urls">{urls.map(url => <option key={url} value={url} />)}</datalist>
            <Text label={texts.user} value={draft.user} onInput={user => { set({ user }) }} />
            <Text label={texts.password} type="password" auto="new-password" value={draft.password} onInput={password => { set({ password }) }} />
            <Text label={texts.clientId} mono value={draft.clientId} onInput={clientId => { set({ clientId }) }} hint={texts.clientIdHint} />
            <div class="field"><span />
              <Check label={texts.keepPassword} checked={draft.keepPassword} onChange={keepPassword => { set({ keepPassword }) }} />
              <Check label={five ? texts.cleanStart : texts.cleanSession} checked={draft.clean} onChange={clean => { set({ clean }) }} />
            </div>
          </div>
          <Fold title={texts.more}>
            <div class="fields">
              <Text label={texts.keepAlive} type="number" min={0} max={65535} value={draft.keepAlive} onInput={keepAlive => { set({ keepAlive }) }} hint={texts.keepAliveHint} />
              {five && <Text label={texts.expiry} type="number" min={0} value={draft.sessionExpiry} onInput={sessionExpiry => { set({ sessionExpiry }) }} hint={texts.expiryHint} />}
              {five && <Text label={texts.receiveMaximum} type="number" min={1} max={65535} value={draft.receiveMaximum} onInput={receiveMaximum => { set({ receiveMaximum }) }} />}
              {five && <Text label={texts.maximumPacket} type="number" min={1} value={draft.maximumPacketSize} onInput={maximumPacketSize => { set({ maximumPacketSize }) }} />}
            </div>
            {five && <><p class="quiet-text">{t.pairs.title}</p><PairsEditor pairs={draft.userProperties} onChange={userProperties => { set({ userProperties }) }} /></>}
          </Fold>
          <Fold title={texts.will} open={Boolean(draft.will?.topic)}>
            <WillFields will={draft.will ?? freshWill()} five={five} onChange={will => { set({ will }) }} />
          </Fold>
        </div>
        <div class="dialog-foot">
          {!isNew && <Button kind="danger" onClick={onForget}>{t.socket.forget}</Button>}
          <Button onClick={onClose}>{t.cancel}</Button>
          <Button kind="primary" type="submit" disabled={!draft.url || Boolean(problem)}>{t.save}</Button>
        </div>
      </form>
    </Dialog>
  )
}
