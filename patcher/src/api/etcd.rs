//! etcd of control plane nodes.

use std::time::Duration;

use ichor_proto::talos::common::Data;
use ichor_proto::talos::machine::{
    EtcdForfeitLeadershipRequest, EtcdLeaveClusterRequest, EtcdMember, EtcdMemberAlarm,
    EtcdMemberListRequest, EtcdMemberStatus, EtcdRemoveMemberByIdRequest, EtcdSnapshotRequest,
};

use super::call::machine_service;
use super::service::SILENCE;
use super::{ApiError, Cause, NodeClient, NodeStream};

/// Talos retries the removal of the member for up to five minutes.
const LEAVE_DEADLINE: Duration = Duration::from_secs(6 * 60);

/// Defragmentation rewrites the whole database while the member waits.
const DEFRAGMENT_DEADLINE: Duration = Duration::from_secs(5 * 60);

impl NodeClient {
    /// The members: as the cluster sees them, or as this node's own member does, which needs no leader.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn etcd_members(&self, query_local: bool) -> Result<Vec<EtcdMember>, ApiError> {
        let message = EtcdMemberListRequest { query_local };
        let reply = self.one("EtcdMemberList", message, |channel, request| async move {
            machine_service(channel).etcd_member_list(request).await
        });
        Ok(reply.await?.members)
    }

    /// The state of this node's member.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn etcd_status(&self) -> Result<EtcdMemberStatus, ApiError> {
        let reply = self.one("EtcdStatus", (), |channel, request| async move {
            machine_service(channel).etcd_status(request).await
        });
        let status = reply.await?.member_status;
        status.ok_or_else(|| self.error("EtcdStatus", Cause::Incomplete("it has no member status")))
    }

    /// The alarms of all members.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn etcd_alarms(&self) -> Result<Vec<EtcdMemberAlarm>, ApiError> {
        let reply = self.one("EtcdAlarmList", (), |channel, request| async move {
            machine_service(channel).etcd_alarm_list(request).await
        });
        Ok(reply.await?.member_alarms)
    }

    /// Clears the alarms of all members, and returns them.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn etcd_disarm(&self) -> Result<Vec<EtcdMemberAlarm>, ApiError> {
        let reply = self.one("EtcdAlarmDisarm", (), |channel, request| async move {
            machine_service(channel).etcd_alarm_disarm(request).await
        });
        Ok(reply.await?.member_alarms)
    }

    /// Defragments the database of this node's member, which does not answer meanwhile. One node at a time.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn etcd_defragment(&self) -> Result<(), ApiError> {
        let patient = self.clone().with_deadline(self.deadline.max(DEFRAGMENT_DEADLINE));
        let reply = patient.one("EtcdDefragment", (), |channel, request| async move {
            machine_service(channel).etcd_defragment(request).await
        });
        reply.await.map(drop)
    }

    /// Gives up the lead, and returns the name of the new leader, or None when this node did not lead.
    ///
    /// Talos takes the first other member, whether it is well or not.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn etcd_forfeit_leadership(&self) -> Result<Option<String>, ApiError> {
        let message = EtcdForfeitLeadershipRequest {};
        let reply = self.one("EtcdForfeitLeadership", message, |channel, request| async move {
            machine_service(channel).etcd_forfeit_leadership(request).await
        });
        Ok(Some(reply.await?.member).filter(|member| !member.is_empty()))
    }

    /// Removes a member.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn etcd_remove_member(&self, member_id: u64) -> Result<(), ApiError> {
        let message = EtcdRemoveMemberByIdRequest { member_id };
        let reply = self.one("EtcdRemoveMemberByID", message, |channel, request| async move {
            machine_service(channel).etcd_remove_member_by_id(request).await
        });
        reply.await.map(drop)
    }

    /// Removes the member of this node and deletes its data.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn etcd_leave(&self) -> Result<(), ApiError> {
        let patient = self.clone().with_deadline(self.deadline.max(LEAVE_DEADLINE));
        let reply =
            patient.one("EtcdLeaveCluster", EtcdLeaveClusterRequest {}, |channel, request| async move {
                machine_service(channel).etcd_leave_cluster(request).await
            });
        reply.await.map(drop)
    }

    /// A snapshot: the database, then its SHA-256. It holds every secret of the cluster.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn etcd_snapshot(&self) -> Result<NodeStream<Data>, ApiError> {
        let message = EtcdSnapshotRequest {};
        self.stream("EtcdSnapshot", message, Some(SILENCE), Some(SILENCE), |channel, request| async move {
            machine_service(channel).etcd_snapshot(request).await
        })
        .await
    }
}
