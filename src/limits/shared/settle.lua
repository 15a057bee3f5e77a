-- What became of requests of one subject. Each is settled once, however often that is said: the one who takes its name
-- from those that run is the first to say so, and the one who takes away what it has reserved of quotas.

local GONE = 'gone'

-- Settles the quotas of a request, which used what `words` say.
local function settle_quotas(key, name, words, is_first)
  local reserved = field(key.quotas, '@' .. name)
  if not (reserved or is_first) then
    return
  end
  set(key.quotas, '@' .. name, false)
  local slots, amounts = {}, {}
  for quota_name, slot, amount in string.gmatch(reserved or '', '(%S+) (%d+) (%d+)') do
    slots[quota_name], amounts[quota_name] = tonumber(slot), tonumber(amount)
  end
  -- What was reserved may have been given back meanwhile: then all of it counts from now.
  each_spoken_of(key, words, function(quota, _, used)
    local beyond = used - (amounts[quota.name] or 0)
    if beyond < 0 then
      refund(key, quota, slots[quota.name], -beyond)
    elseif beyond > 0 and not quota.is_outside then
      spend(key, quota, beyond)
    end
  end)
end

-- What a gateway let requests use of quotas while it did not ask. Nobody here knows of it: its name is kept instead.
local function settle_spent(key, name, words)
  if field(key.quotas, '@' .. name) then
    return
  end
  set(key.quotas, '@' .. name, SAID)
  put_running(key, {name}, true, true)
  each_spoken_of(key, words, function(quota, slot, amount)
    spend_in(key, quota, slot, amount)
  end)
end

-- `words` is empty where the request has no quotas.
local function settle(key, name, ending, slot, tokens, used, words)
  local is_first = call('ZREM', key.running, name) == 1
  if words ~= '' then
    if ending == 'settle' then
      settle_quotas(key, name, words, is_first)
    elseif ending == 'cancel' then
      release(key, name)
    else
      set(key.quotas, '@' .. name, false)
    end
  end
  if slot == '0' then
    -- The gateway did not hear what became of it: only the server knows.
    local known = field(key.windows, name)
    if ending == 'cancel' and (known == GONE or not is_first) then
      -- It may still be on its way, over a connection that broke: then it comes too late.
      put_running(key, {name}, true, true)
      set(key.windows, name, GONE)
      return
    end
    if known then
      slot, tokens = string.match(known, '^(%d+) (%d+)$')
    end
  end
  if not is_first then
    return
  end
  set(key.windows, name, false)
  tokens, used = tonumber(tokens) or 0, tonumber(used) or 0
  if ending == 'cancel' and slot ~= '0' then
    give_back(key, slot, 1, tokens)
  elseif ending == 'settle' and used < tokens then
    give_back(key, slot, 0, tokens - used)
  elseif ending == 'settle' and used > tokens then
    add(key, 'c', key.now, 0, used - tokens)
  end
end

-- Gives back what a gateway took in advance and did not use: requests, tokens and places.
local function settle_stock(key, name, slot, requests, tokens, places)
  if call('ZREM', key.running, name) == 0 then
    return
  end
  if slot == '0' then
    slot, requests, tokens = string.match(field(key.windows, name) or '0 0 0', '^(%d+) (%d+) (%d+)$')
  end
  set(key.windows, name, false)
  give_back(key, slot, tonumber(requests), tonumber(tokens))
  for place in string.gmatch(places, '%S+') do
    call('ZREM', key.running, place)
  end
end

-- Where the next argument stands after as many settlements as the one at `from` says.
local function after_settlements(from)
  return from + 1 + tonumber(ARGV[from]) * 6
end

-- Where the settlements at `from` say that their requests are counted, each once.
local function settled_slots(from)
  local slots, seen = {}, {}
  for at = from + 1, after_settlements(from) - 1, 6 do
    local slot = ARGV[at + 2]
    if slot ~= '0' and not seen[slot] then
      slots[#slots + 1], seen[slot] = slot, true
    end
  end
  return unpack(slots)
end

-- What the settlements at `from` need to know of quotas.
local function settled_names(from)
  local names = {}
  for at = from + 1, after_settlements(from) - 1, 6 do
    if ARGV[at + 5] ~= '' and ARGV[at + 1] ~= 'stock' then
      names[#names + 1] = '@' .. ARGV[at]
    end
  end
  return names
end

-- Settles as many requests as the argument at `from` says, and returns where the next argument stands.
local function settle_all(key, from)
  local count = tonumber(ARGV[from])
  for number = 0, count - 1 do
    local at = from + 1 + number * 6
    local name, ending, words = ARGV[at], ARGV[at + 1], ARGV[at + 5]
    if ending == 'stock' then
      settle_stock(key, name, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], words)
    elseif ending == 'spent' then
      settle_spent(key, name, words)
    else
      settle(key, name, ending, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], words)
    end
  end
  return after_settlements(from)
end
