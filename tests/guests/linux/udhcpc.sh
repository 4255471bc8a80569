#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# What udhcpc calls with the lease it got.
# shellcheck disable=SC2154 # udhcpc sets them
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev "$interface"
ip addr add "$ip/${mask:-24}" dev "$interface"
if [ -n "$router" ]; then
	ip route add default via "${router%% *}"
fi
if [ -n "$dns" ]; then
	echo "nameserver ${dns%% *}" > /etc/resolv.conf
fi
