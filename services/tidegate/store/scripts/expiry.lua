-- Entries of a queue that have expired: they hold no place, and are deleted [MQTT-3.3.2-5].
--
-- P..'v:'..C..':'..I has the seqs of the entries that expire, scored by when. Seqs whose entry is
-- gone may be left in it. These functions are made when a call needs them first.

-- Records of a queue begin with this byte.
local QUEUED = 17

local expiry
local function make_expiry()
  -- Pushed messages that an edge may hold beside those in flight: its MAX_HELD (client/delivery.py).
  local HELD = 64
  -- Of larger messages fewer are read to find those whose delivery may have begun.
  local BEGUN_BYTES = 4194304
  local EXPIRED_PAGE = 256
  local EXPIRED_LOOKS = 4096

  -- When the message of a record expires, nil if never. store/records.py describes the record.
  local function expiry_of(record)
    local form, flags, high, low = string.byte(record, 1, 4)
    if form ~= QUEUED or flags % 16 < 8 then return nil end
    local at, expiry = 5 + 256 * high + low, 0
    if flags % 128 >= 64 then
      high, low = string.byte(record, at, at + 1)
      at = at + 2 + 256 * high + low
    end
    for n = at, at + 7 do expiry = 256 * expiry + string.byte(record, n) end
    return expiry
  end

  -- The entries whose delivery may have begun, as a set of seqs: an exchange that was begun goes on
  -- [MQTT-4.3.3-7]. Where an edge has, or had, the connection and has not reported what it sent, these
  -- are the first of the queue. Also the seq up to which those behind them are taken for such, when
  -- not all were read.
  local function begun_entries(P, C, I)
    local f = call('HMGET', P .. 's:' .. C, 'g', 'n', 'u')
    local q, places, last, found = P .. 'q:' .. C .. ':' .. I, tonumber(ARGV[3]), '+', {}
    if f[1] ~= '' then
      places = places + HELD
    elseif f[3] ~= '1' then
      places, last = math.huge, '1-' .. f[2]
    end
    local from, bytes, seq = '-', 0, 0
    while places > 0 and bytes < BEGUN_BYTES do
      local entries = call('XRANGE', q, from, last, 'COUNT', math.min(places, 32))
      if #entries == 0 then return found, 0 end
      for _, entry in ipairs(entries) do
        seq = string.sub(entry[1], 3)
        found[seq] = true
        bytes = bytes + #entry[2][2]
      end
      places = places - #entries
      from = '(1-' .. seq
    end
    if last ~= '+' then return found, tonumber(f[2]) end
    return found, tonumber(seq) + places
  end

  -- Deletes entries that have expired and whose delivery cannot have begun, about so many. Returns how
  -- many were deleted, how many expired ones stay, and whether there may be more to delete.
  local function delete_expired(P, C, I, now, most)
    local q, v = P .. 'q:' .. C .. ':' .. I, P .. 'v:' .. C .. ':' .. I
    local deleted, kept, looks, begun, through = 0, 0, 0, nil, 0
    while true do
      local seqs = call('ZRANGEBYSCORE', v, '-inf', now, 'LIMIT', kept, EXPIRED_PAGE)
      if #seqs == 0 then return deleted, kept, false end
      if not begun then begun, through = begun_entries(P, C, I) end
      local ids, gone = {}, {}
      for _, seq in ipairs(seqs) do
        if begun[seq] or tonumber(seq) <= through then
          kept = kept + 1
        else
          ids[#ids + 1] = '1-' .. seq
          gone[#gone + 1] = seq
        end
      end
      if #gone > 0 then
        local count = call('XDEL', q, unpack(ids))
        call('ZREM', v, unpack(gone))
        deleted = deleted + count
        expired = expired + count
        lengths[q] = nil
      end
      looks = looks + #seqs
      if #seqs < EXPIRED_PAGE then return deleted, kept, false end
      if deleted >= most or looks >= EXPIRED_LOOKS then return deleted, kept, true end
    end
  end

  -- Of queues that were full in this operation: how many expired entries stay in them because their
  -- delivery may have begun, and hold no place.
  local exempt = {}

  -- Deletes expired entries of a full queue; returns its length and how many entries it may have. ARGV
  -- has P, C and incarnation at the index of.
  local function make_room(q, of, now, length, limit)
    if not exempt[q] then
      local P, C, I = ARGV[of], ARGV[of + 1], ARGV[of + 2]
      local deleted, kept, more = delete_expired(P, C, I, now, EXPIRED_PAGE)
      length = length - deleted
      if not more then exempt[q] = kept end
    end
    return length, limit + (exempt[q] or 0)
  end

  -- drop_oldest removes so many entries: their expiries are removed, too. Returns how many have
  -- expired. When the limit was lowered by much, the expiries of the rest are removed in time.
  local function forget_oldest(q, of, now, count)
    local v = ARGV[of] .. 'v:' .. ARGV[of + 1] .. ':' .. ARGV[of + 2]
    if call('ZCARD', v) == 0 then return 0 end
    local seqs, dead = {}, 0
    for _, entry in ipairs(call('XRANGE', q, '-', '+', 'COUNT', math.min(count, 100))) do
      local expires = expiry_of(entry[2][2])
      if expires then seqs[#seqs + 1] = string.sub(entry[1], 3) end
      if expires and expires <= now then dead = dead + 1 end
    end
    if #seqs > 0 then call('ZREM', v, unpack(seqs)) end
    if exempt[q] then exempt[q] = exempt[q] - dead end
    return dead
  end

  -- Notes that an entry expires; returns the earliest such time of its queue in this operation.
  local function note(of, id, record, earliest)
    local expires = expiry_of(record)
    call('ZADD', ARGV[of] .. 'v:' .. ARGV[of + 1] .. ':' .. ARGV[of + 2], expires, string.sub(id, 3))
    return math.min(earliest or expires, expires)
  end

  -- Has the queue visited in the second after an entry expires, unless it is visited before.
  local function schedule(of, expires, scheduled)
    local at = expires - expires % 1000 + 1000
    if scheduled and tonumber(scheduled) <= at then return end
    local P, C = ARGV[of], ARGV[of + 1]
    call('HSET', P .. 's:' .. C, 'v', at)
    call('ZADD', P .. 'queued-due', at, C .. ':' .. ARGV[of + 2])
  end

  -- An operation begins: others may have changed the queues.
  local function begin() exempt = {} end

  expiry = {
    begin = begin,
    delete_expired = delete_expired,
    forget_oldest = forget_oldest,
    make_room = make_room,
    note = note,
    schedule = schedule,
  }
  return expiry
end
