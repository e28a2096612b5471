#!/bin/busybox sh
# The first program of a guest of `cargo xtask lab kernels`. The kernel's command line sets MODULES, BINARY, TESTS, LIMITS
# and PROGRAMS. What it finds goes to the console.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/sbin:/usr/bin
ln -sf /bin/busybox /sbin/modprobe
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_pci 9pnet_virtio 9p; do modprobe $module 2>/dev/null; done
options=trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose
if ! mount -t 9p -o $options host /host || ! mount -t 9p -o $options target /host/mnt; then
    echo "the guest does not see the machine's files"
    poweroff -f
fi
mount -t tmpfs tmp /host/tmp
mount -t tmpfs run /host/run
mount -t devtmpfs dev /host/dev
mount -t proc proc /host/proc
mount -t sysfs sys /host/sys
mount -t bpf bpf /host/sys/fs/bpf
mount -t cgroup2 cgroup /host/sys/fs/cgroup
# busybox finds modules by name; the aliases by which the kernel asks for them it does not always.
rm -rf /lib/modules
ln -s /host$MODULES /lib/modules
for module in crc32c_generic crc32c_intel libcrc32c veth ifb sch_ingress sch_tbf sch_htb cls_bpf cls_u32 act_mirred nfnetlink nf_tables nft_counter nf_conntrack \
    nf_conntrack_netlink nft_ct nft_nat nft_chain_nat nft_masq nft_reject_inet nft_limit 8021q bonding; do
    # Some are part of the kernel, or have another name there.
    modprobe $module 2>/dev/null
done
ip link set lo up
echo "KERNEL $(uname -r)"
inside() {
    chroot /host /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_LOG=warn "$@"
}
inside $BINARY --color never --test-threads=1 --include-ignored $(echo $TESTS | tr , ' ') 2>&1
# Limits and classes without fq and fq_codel, which the kernel must not fetch by itself, and with them.
echo /bin/false >/proc/sys/kernel/modprobe
inside $LIMITS --color never --test-threads=1 --nocapture limits:: tree:: 2>&1
modprobe sch_fq
modprobe sch_fq_codel
inside $LIMITS --color never --test-threads=1 --nocapture limits:: tree:: 2>&1
# An agent that asks for all that the programs can do.
inside ip link add eth0 type veth peer name world0
inside ip addr add 10.1.1.11/24 dev eth0
inside ip link set eth0 up
inside ip link set world0 up
inside ip route add default via 10.1.1.1
mkdir -p /host/run/turnpike/resources /host/run/turnpike/state
cat >/host/run/turnpike/agent.toml <<END
[node]
name = "k"
[paths]
state = "/run/turnpike/state"
resources = "/run/turnpike/resources"
cgroup_root = "/sys/fs/cgroup"
[bgpd]
enabled = false
END
cat >/host/run/turnpike/resources/all.yaml <<END
apiVersion: turnpike.io/v1alpha1
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.244.0.0/16}
---
apiVersion: turnpike.io/v1alpha1
kind: IPBlock
metadata: {name: k}
spec: {cidr: 10.244.1.0/26, pool: pods, node: k}
---
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs}
spec: {cidrs: [10.9.1.0/24], bypass: true, toa: Toa254}
END
inside $PROGRAMS/turnpike-agent --config /run/turnpike/agent.toml >/host/run/agent.log 2>&1 &
tries=0
until inside $PROGRAMS/turnpike lb flows 2>&1 | grep '^uplinks with the bypass: eth0 ' || [ $tries -ge 60 ]; do
    tries=$((tries + 1))
    sleep 1
done
echo "STATUS BEGIN"
inside $PROGRAMS/turnpike status 2>&1
echo "STATUS END"
tail -n 20 /host/run/agent.log
poweroff -f
