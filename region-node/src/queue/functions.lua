#!lua name=boxoffice_queue_1
-- The queue's functions. Raise the number in the library's and the functions' names (and in functions.rs) whenever
-- what is stored, passed or answered changes: nodes of both versions may then run side by side only if both
-- understand what is stored.
--
-- Keys of a shard (one hash tag, so one slot):
--   m    meta: generation 2 bytes, tail 5, arrival of the tail 6, arrival of the newest sample 6
--   q    stream of the current generation; one stream entry per batch, id `<last sequence number>-0`
--   q:G  what survived of the older generation G
--   u    dedupe: user hash (16 bytes) -> place (see `place` below)
--   s    samples: list of arrival 6, generation 2, sequence 5 (the last one given out before that arrival)
--
-- A stream entry's value: arrival 6, count 2, then `count` items. An item:
--   length of its tail 1 (+ 128 when an identity follows), user 16,
--   tail: request id 16, quantity 1, flags 1, tiers, [hash of the identity 4]; then [identity 16].
-- A place: kind 1 (128 = final; low bits: lapsed holds), generation 2, arrival 6, sequence 5, the item's tail, and when
-- final: not before 6 (milliseconds since 1970, 0 = at once). All numbers big endian.
--
-- Every function makes a constant number of calls per shard, never one per item: that is what makes intake fast.

-- Standard libraries can be reached when a function runs, not while the library loads: see `ready`.
local byte, sub, concat, pack, decode, call
local CHARS, size_of_head = {}, 14

local function ready(callback)
  return function(keys, argv)
    if not call then
      byte, sub, concat = string.byte, string.sub, table.concat
      pack, decode = struct.pack, struct.unpack
      for i = 0, 255 do CHARS[i] = string.char(i) end
      call = redis.call
    end
    return callback(keys, argv)
  end
end

local SAMPLE_EVERY_MS, SAMPLES_MAX = 1000, 4096

local function now_ms()
  local t = call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function read_meta(key)
  local meta = call('GET', key)
  if meta then
    return decode('>I2I5I6I6', meta)
  end
end

local function write_meta(key, generation, tail, arrival, sampled)
  call('SET', key, pack('>I2I5I6I6', generation, tail, arrival, sampled))
end

local function id(sequence)
  return string.format('%.0f-0', sequence)
end

-- Keeps the list of samples bounded: when it is full, every second one goes.
local function sample(key, arrival, generation, sequence)
  if call('RPUSH', key, pack('>I6I2I5', arrival, generation, sequence)) <= SAMPLES_MAX then
    return
  end
  local all, kept = call('LRANGE', key, 0, -1), {}
  for i = 1, #all, 2 do kept[#kept + 1] = all[i] end
  call('DEL', key)
  call('RPUSH', key, unpack(kept))
end

-- What an existing place says to a new item. Codes: 0 a fresh place after all, 1 repeat, 2 final, 3 conflict,
-- 4 cool-down. Also the payload of the answer and the number of lapsed holds to carry over.
local function judge(old, tail, now)
  local kind = byte(old)
  local final = kind >= 128
  local was = final and sub(old, size_of_head + 1, -7) or sub(old, size_of_head + 1)
  if sub(was, 1, 16) == sub(tail, 1, 16) then
    if was ~= tail then return 3, '' end
    return final and 2 or 1, sub(old, 1, size_of_head) .. was
  end
  if not final then
    return 1, sub(old, 1, size_of_head) .. was
  end
  local not_before = decode('>I6', old, #old - 5)
  if not_before > now then
    return 4, pack('>I6', not_before - now)
  end
  return 0, '', kind - 128
end

-- One shard's part of a batch. `blob`: generation 2 and tail 5 that the caller has seen acknowledged, count 2, items;
-- no user twice. Answer: '\1' no generation, '\2' behind what the caller has seen; else '\0', generation 2, arrival 6,
-- first sequence 5, number of odd ones 2, and each odd one: index 2, code 1, length 1, payload.
local function join_shard(meta_key, queue_key, users_key, samples_key, blob, now)
  local generation, tail, arrival, sampled = read_meta(meta_key)
  if not generation then return '\1' end
  local known_generation, known_tail, count = decode('>I2I5I2', blob)
  if generation < known_generation or (generation == known_generation and tail < known_tail) then return '\2' end
  local before = arrival
  if now > arrival then arrival = now end

  local users, tails, at = {}, {}, 10
  for i = 1, count do
    local length = byte(blob, at)
    if length >= 128 then
      length = length - 128
      users[i] = sub(blob, at + 1, at + 16)
      tails[i] = sub(blob, at + 17, at + 16 + length)
      at = at + 33 + length
    else
      users[i] = sub(blob, at + 1, at + 16)
      tails[i] = sub(blob, at + 17, at + 16 + length)
      at = at + 17 + length
    end
  end
  local had = call('HMGET', users_key, unpack(users))

  local first = tail + 1
  local stamp = pack('>I2I6', generation, arrival)
  local head, head_of = '', -1
  local places, n = {}, 0
  local odd, fresh = nil, nil
  for i = 1, count do
    local kind = '\0'
    local old = had[i]
    local code = 0
    if old then
      local payload, lapsed
      code, payload, lapsed = judge(old, tails[i], now)
      if code == 0 then
        kind = CHARS[lapsed]
      else
        odd = odd or {}
        odd[#odd + 1] = pack('>I2BB', i - 1, code, #payload) .. payload
        if not fresh then
          fresh = {}
          for j = 1, i - 1 do fresh[j] = j end
        end
      end
    end
    if code == 0 then
      tail = tail + 1
      local high = math.floor(tail / 256)
      if high ~= head_of then
        head, head_of = stamp .. pack('>I4', high), high
      end
      places[n + 1] = users[i]
      places[n + 2] = kind .. head .. CHARS[tail % 256] .. tails[i]
      n = n + 2
      if fresh then fresh[#fresh + 1] = i end
    end
  end

  if n > 0 then
    local value
    if not fresh then
      value = pack('>I6', arrival) .. sub(blob, 8)
    else
      local parts, at, next_fresh = { pack('>I6I2', arrival, #fresh) }, 10, 1
      for i = 1, count do
        local length = byte(blob, at)
        local size = length >= 128 and length - 95 or length + 17
        if fresh[next_fresh] == i then
          parts[#parts + 1] = sub(blob, at, at + size - 1)
          next_fresh = next_fresh + 1
        end
        at = at + size
      end
      value = concat(parts)
    end
    -- The queue first: should it refuse (its ids only grow), nothing has been stored.
    call('XADD', queue_key, id(tail), 'd', value)
    call('HSET', users_key, unpack(places))
    -- Not amid those of one millisecond: who of them came before is not in a sample. Before the first is nobody.
    if (arrival > before or first == 1) and arrival - sampled >= SAMPLE_EVERY_MS then
      sample(samples_key, arrival, generation, first - 1)
      sampled = arrival
    end
    write_meta(meta_key, generation, tail, arrival, sampled)
  end
  local answer = pack('>BI2I6I5I2', 0, generation, arrival, first, odd and #odd or 0)
  if odd then
    return answer .. concat(odd)
  end
  return answer
end

-- KEYS: m q u s of each shard in turn; ARGV: one blob per shard. One answer per shard.
local function join(keys, argv)
  local now, answers = now_ms(), {}
  for i = 1, #argv do
    local k = i * 4 - 3
    answers[i] = join_shard(keys[k], keys[k + 1], keys[k + 2], keys[k + 3], argv[i], now)
  end
  return answers
end

local function state(meta_key, queue_key)
  local generation, tail, arrival = read_meta(meta_key)
  if not generation then return '' end
  local first, head = call('XRANGE', queue_key, '-', '+', 'COUNT', 1)[1], tail + 1
  if first then
    local last = tonumber(string.match(first[1], '^%d+'))
    local _, count = decode('>I6I2', first[2][2])
    head = last - count + 1
  end
  return pack('>I2I5I5I6', generation, head, tail, arrival)
end

-- KEYS: m q. Answer: '' without a generation; else generation 2, head 5, tail 5, arrival 6.
local function shard_state(keys)
  return state(keys[1], keys[2])
end

-- KEYS: m q q:OLD; ARGV: the new generation, OLD (0: no generation yet). Only upwards; again is harmless.
-- What is left of the older generation stays readable under its own name.
local function begin_generation(keys, argv)
  local wanted, expected = tonumber(argv[1]), tonumber(argv[2])
  local generation, _, arrival = read_meta(keys[1])
  if generation and generation >= wanted then
    return state(keys[1], keys[2])
  end
  if (generation or 0) ~= expected then
    return redis.error_reply('CHANGED another generation than expected')
  end
  if call('EXISTS', keys[2]) == 1 then
    call('RENAME', keys[2], keys[3])
  end
  write_meta(keys[1], wanted, 0, math.max(now_ms(), arrival or 0), 0)
  return state(keys[1], keys[2])
end

-- The stream that holds a generation: the current one, or what survived of an older one.
local function stream_of(keys, generation)
  local current = read_meta(keys[1])
  return current == generation and keys[2] or keys[3]
end

-- KEYS: m q q:GENERATION; ARGV: generation, after, most.
-- Answer: last sequence number and value of stream entries in turn, until `most` items are there.
local function peek(keys, argv)
  local stream, from, most = stream_of(keys, tonumber(argv[1])), tonumber(argv[2]) + 1, tonumber(argv[3])
  local found, items = {}, 0
  while items < most do
    local entries = call('XRANGE', stream, id(from), '+', 'COUNT', 16)
    for _, entry in ipairs(entries) do
      local last = string.match(entry[1], '^%d+')
      local _, count = decode('>I6I2', entry[2][2])
      found[#found + 1] = last
      found[#found + 1] = entry[2][2]
      items = items + count
      from = tonumber(last) + 1
      if items >= most then break end
    end
    if #entries < 16 then break end
  end
  return found
end

-- Forgets the places of a stream entry's items up to `upto`, unless the user has another place by now.
local function forget(users_key, generation, last, value, upto)
  local _, count = decode('>I6I2', value)
  local users, sequences, at, sequence = {}, {}, 9, last - count
  for _ = 1, count do
    sequence = sequence + 1
    local length = byte(value, at)
    if sequence <= upto then
      users[#users + 1] = sub(value, at + 1, at + 16)
      sequences[#sequences + 1] = sequence
    end
    at = at + (length >= 128 and length - 95 or length + 17)
  end
  if #users == 0 then return end
  local had, gone = call('HMGET', users_key, unpack(users)), {}
  for i, old in ipairs(had) do
    if old then
      local kind, g, _, s = decode('>BI2I6I5', old)
      if kind < 128 and g == generation and s == sequences[i] then gone[#gone + 1] = users[i] end
    end
  end
  if #gone > 0 then call('HDEL', users_key, unpack(gone)) end
end

-- KEYS: m q q:GENERATION u s; ARGV: generation, upto, '1' to forget the places too.
-- Removes stream entries that end at or before `upto`. Answer: 1 when there is more to do.
local function trim(keys, argv)
  local generation, upto = tonumber(argv[1]), tonumber(argv[2])
  local stream, more, trimmed = stream_of(keys, generation), 0, upto
  if argv[3] == '1' then
    local entries = call('XRANGE', stream, '-', '+', 'COUNT', 16)
    for i, entry in ipairs(entries) do
      local last = tonumber(string.match(entry[1], '^%d+'))
      forget(keys[4], generation, last, entry[2][2], upto)
      if last >= upto then break end
      if i == 16 then more, trimmed = 1, last end
    end
  end
  call('XTRIM', stream, 'MINID', '=', id(trimmed + 1))
  if stream == keys[3] and call('XLEN', stream) == 0 then
    call('DEL', stream)
  end
  -- Samples: of those that lie before, only the newest is of use.
  local old, n = call('LRANGE', keys[5], 0, 63), 0
  for i = 1, #old - 1 do
    local _, g = decode('>I6I2I5', old[i])
    local _, next_g, next_s = decode('>I6I2I5', old[i + 1])
    if g ~= generation or next_g ~= generation or next_s > trimmed then break end
    n = i
  end
  if n > 0 then call('LTRIM', keys[5], n, -1) end
  return more
end

-- KEYS: u; ARGV: items (user 16, generation 2, sequence 5, outcome 1: 0 done, 1 lapsed, 2 voided), lapses that bring
-- a cool-down, its length, the length after a void (milliseconds). Answer: how many places became final.
local function settle(keys, argv)
  local items, now = argv[1], now_ms()
  local lapses_max, lapse_ms, void_ms = tonumber(argv[2]), tonumber(argv[3]), tonumber(argv[4])
  local users = {}
  for at = 1, #items, 24 do users[#users + 1] = sub(items, at, at + 15) end
  local had, changed, written = call('HMGET', keys[1], unpack(users)), {}, {}
  for i, user in ipairs(users) do
    local old = written[user] or had[i]
    if old then
      local generation, sequence, outcome = decode('>I2I5B', items, i * 24 - 7)
      local kind, g, _, s = decode('>BI2I6I5', old)
      if kind < 128 and g == generation and s == sequence then
        local lapsed, not_before = kind, 0
        if outcome == 1 then
          lapsed = math.min(lapsed + 1, 15)
          if lapsed >= lapses_max then not_before = now + lapse_ms end
        elseif outcome == 2 then
          not_before = now + void_ms
        end
        written[user] = CHARS[128 + lapsed] .. sub(old, 2) .. pack('>I6', not_before)
        changed[#changed + 1] = user
        changed[#changed + 1] = written[user]
      end
    end
  end
  if #changed > 0 then call('HSET', keys[1], unpack(changed)) end
  return #changed / 2
end

-- KEYS: the concert's witness; ARGV: a book number. Only upwards.
local function note_book(keys, argv)
  local noted = tonumber(call('GET', keys[1]) or '0')
  if tonumber(argv[1]) > noted then call('SET', keys[1], argv[1]) end
  return 1
end

redis.register_function('boxoffice_queue_1_join', ready(join))
redis.register_function {
  function_name = 'boxoffice_queue_1_state', callback = ready(shard_state), flags = { 'no-writes' }
}
redis.register_function('boxoffice_queue_1_begin', ready(begin_generation))
redis.register_function {
  function_name = 'boxoffice_queue_1_peek', callback = ready(peek), flags = { 'no-writes' }
}
redis.register_function('boxoffice_queue_1_trim', ready(trim))
redis.register_function('boxoffice_queue_1_settle', ready(settle))
redis.register_function('boxoffice_queue_1_note_book', ready(note_book))
